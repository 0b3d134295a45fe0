# The command in an image. TORCH=cpu: no CUDA libraries, a tenth of the size; cuda: those of PyPI.
FROM python:3.12-slim-bookworm
ARG TORCH=cpu
ARG EXTRAS=prefect,http
# Where the CPU build of torch lies; a mirror of your own, say.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1 \
    DO_NOT_TRACK=1 PREFECT_SERVER_ANALYTICS_ENABLED=false OMP_WAIT_POLICY=PASSIVE \
    NUMBA_CACHE_DIR=/var/cache/mlff-screen
# Triton compiles a launcher when it first runs on a card; any gcc of the release does.
# hadolint ignore=DL3008
RUN if [ "$TORCH" = cuda ]; then apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*; fi
WORKDIR /src
COPY constraints.txt ./
# The version is that of constraints.txt.
# hadolint ignore=DL3013
RUN torch="$(grep '^torch==' constraints.txt)" \
    && if [ "$TORCH" = cuda ]; then pip install "$torch"; \
    else pip install --index-url "$TORCH_INDEX" "$torch"; fi
COPY pyproject.toml README.md LICENSE ./
COPY mlff_core mlff_core
COPY tasks tasks
COPY flows flows
COPY datasets datasets
RUN if [ "$TORCH" = cuda ]; then EXTRAS="$EXTRAS,triton"; fi \
    && pip install --constraint constraints.txt ".[$EXTRAS]" && rm -rf /src/*
# A user of another number, of `docker run --user`, has no home but this one.
ENV HOME=/home/screen
RUN useradd --create-home --uid 1000 screen && chmod 1777 /home/screen \
    && install -d -o screen -g screen /work && install -d -m 1777 /var/cache/mlff-screen
USER 1000
WORKDIR /work
ENTRYPOINT ["mlff-screen"]
CMD ["--help"]
