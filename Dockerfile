# The environment of `make setup` and `make cluster`, with its lock and its hashes, for a CPU or for NVIDIA's GPUs:
#   docker build -t pahq .
#   docker build -t pahq:cuda --build-arg VARIANT=cuda .
# One search, its files in ./results (which user 1000 must be able to write to):
#   docker run --rm -v "$PWD/results:/app/results" pahq pahq task=nano-ioi method=pahq
#   docker run --rm --gpus all -v "$PWD/results:/app/results" pahq:cuda pahq task=nano-ioi method=pahq run.device=cuda
# Both variants have one base, since PyTorch's builds for CUDA bring all of CUDA but the driver. Its digest is the image index of
# Python 3.11.16, as several public projects that pin it quote it; nothing was pulled to check it.
ARG VARIANT=cpu

FROM python:3.11-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b AS system
# Versions are Debian's stable ones; a pin would fail with the next security update, which takes the old one away.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends make \
    && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home --uid 1000 pahq && install -d -o pahq -g pahq /app
ENV PIP_NO_CACHE_DIR=1

FROM system AS system-cpu
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV TORCH_INDEX=$TORCH_INDEX

FROM system AS system-cuda
# Triton, which compiles the kernel of precision.kernel=fused, needs a C compiler when that runs.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
ARG TORCH_INDEX=https://download.pytorch.org/whl/cu130
ENV TORCH_INDEX=$TORCH_INDEX NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility

# hadolint ignore=DL3006
FROM system-${VARIANT}
WORKDIR /app
USER 1000:1000
# Packages before the code, so that a change of the code does not install them anew.
COPY --chown=1000:1000 Makefile requirements.lock requirements-torch.txt ./
RUN make packages
COPY --chown=1000:1000 . .
# "cluster" brings Snakemake's executor for profiles/kubernetes.
RUN make setup cluster
ENV PATH=/app/.venv/bin:$PATH OMP_NUM_THREADS=1 MPLBACKEND=Agg
CMD ["pahq", "--help"]
