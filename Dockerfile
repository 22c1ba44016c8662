# NVIDIA's Triton with dfvt-deploy beside it: builds engines for the GPU it finds, populates a
# repository, serves it. See docs/production.md, and deploy/compose.yaml for all of it.
#
#   docker build --tag dfvt-deploy .                          # TensorRT, on an NVIDIA GPU
#   docker build --tag dfvt-deploy:cpu --target cpu .         # onnxruntime or OpenVINO
#   docker run --gpus=all --shm-size=1g --publish 127.0.0.1:8000-8002:8000-8002 \
#       --volume "$PWD/exports:/exports" dfvt-deploy

# What a release holds, and where that was read: dfvt_deploy/data/triton_releases.json. 26.04 is the
# least, for the security fixes of the server.
ARG TRITON_RELEASE=26.07
FROM nvcr.io/nvidia/tritonserver:${TRITON_RELEASE}-py3 AS wheel
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY dfvt_deploy dfvt_deploy
RUN python3 -m pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM nvcr.io/nvidia/tritonserver:${TRITON_RELEASE}-py3 AS cpu

SHELL ["/bin/bash", "-o", "errexit", "-o", "nounset", "-o", "pipefail", "-c"]

# The image's own Python runs Triton's Python steps too, so their packages go there. glibc keeps the
# memory of decoded images, as dfvt_deploy/serving/installation.py says.
ENV MALLOC_MMAP_THRESHOLD_=33554432 \
    MALLOC_TRIM_THRESHOLD_=67108864 \
    PIP_BREAK_SYSTEM_PACKAGES=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1

RUN apt-get update \
    && apt-get install --yes --no-install-recommends tini=0.19.* \
    && rm -rf /var/lib/apt/lists/*

# The package from the wheel made above, never from an index.
COPY --from=wheel /wheels /wheels
COPY docker/requirements.txt /wheels/
RUN python3 -m pip install --no-cache-dir --requirement /wheels/requirements.txt \
        "$(echo /wheels/dfvt_deploy-*.whl)[client]"

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

# Health is an inference of every model. The first start may build engines, which takes minutes each.
HEALTHCHECK --interval=60s --timeout=60s --start-period=60m --retries=3 \
    CMD ["dfvt-deploy", "container", "health"]

ENV DFVT_BACKEND=onnxruntime

# NVIDIA's entry point chooses the CUDA compatibility libraries that the driver needs.
ENTRYPOINT ["/usr/bin/tini", "--", "/opt/nvidia/nvidia_entrypoint.sh", "dfvt-deploy", "container"]
CMD ["start"]

# TensorRT's bindings without its libraries: those are the image's, which the server loads too, so
# that the plans built here are the ones it takes.
FROM cpu AS gpu
USER 0:0
COPY docker/requirements-gpu.txt /wheels/
RUN python3 -m pip install --no-cache-dir --requirement /wheels/requirements-gpu.txt \
    && dfvt-deploy container tensorrt-requirement > /wheels/tensorrt.txt \
    && python3 -m pip install --no-cache-dir --no-deps --requirement /wheels/tensorrt.txt
USER 10001:10001
ENV DFVT_BACKEND=tensorrt
