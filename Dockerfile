# NVIDIA's Triton with dfvt-deploy beside it: builds engines for the GPU it finds, populates a
# repository, serves it. See docs/production.md.
#
#   docker build --tag dfvt-deploy .
#   docker run --gpus=all --shm-size=1g --publish 127.0.0.1:8000-8002:8000-8002 \
#       --volume "$PWD/exports:/exports" dfvt-deploy

# What a release holds, and where that was read: dfvt_deploy/data/triton_releases.json. 26.04 is the
# least, for the security fixes of the server.
ARG TRITON_RELEASE=26.07
FROM nvcr.io/nvidia/tritonserver:${TRITON_RELEASE}-py3

SHELL ["/bin/bash", "-o", "errexit", "-o", "nounset", "-o", "pipefail", "-c"]

# The image's own Python runs Triton's Python steps too, so their packages go there.
ENV PIP_BREAK_SYSTEM_PACKAGES=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1

RUN apt-get update \
    && apt-get install --yes --no-install-recommends tini=0.19.* \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/dfvt-deploy
COPY pyproject.toml README.md LICENSE ./
COPY docker docker
COPY dfvt_deploy dfvt_deploy

# TensorRT's bindings without its libraries: those are the image's, which the server loads too, so
# that the plans built here are the ones it takes.
RUN python3 -m pip install --no-cache-dir --requirement docker/requirements.txt \
    && dfvt-deploy container tensorrt-requirement > docker/tensorrt.txt \
    && python3 -m pip install --no-cache-dir --no-deps --requirement docker/tensorrt.txt

# The server's user may write its state, what it built at the start included, and whatever is mounted
# so. Everything else belongs to root.
RUN useradd --no-log-init --uid 10001 --user-group --home-dir /var/lib/dfvt-deploy dfvt \
    && install --directory --owner=dfvt --group=dfvt /var/lib/dfvt-deploy /exports /models
ENV HOME=/var/lib/dfvt-deploy
USER 10001:10001
WORKDIR /var/lib/dfvt-deploy
VOLUME ["/var/lib/dfvt-deploy"]

EXPOSE 8000 8001 8002
STOPSIGNAL SIGTERM

# The first start may build engines, which takes minutes each.
HEALTHCHECK --interval=30s --timeout=10s --start-period=60m --retries=3 \
    CMD ["dfvt-deploy", "container", "health"]

# NVIDIA's entry point chooses the CUDA compatibility libraries that the driver needs.
ENTRYPOINT ["/usr/bin/tini", "--", "/opt/nvidia/nvidia_entrypoint.sh", "dfvt-deploy", "container"]
CMD ["start"]
