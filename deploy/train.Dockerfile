# docker build -f deploy/train.Dockerfile -t jepack-train:0.1.0 .
FROM python:3.11-slim
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
# gcc: SIGReg's Triton kernels are compiled on first use; whichever the base's Debian has.
WORKDIR /opt/jepack
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY jepack jepack
COPY training training
COPY deploy/launch.sh deploy/launch.sh
RUN pip install --no-cache-dir -c constraints.txt torch torchvision \
    && pip install --no-cache-dir -c constraints.txt -e '.[train,formats]'
RUN useradd --create-home --uid 1000 jepack
USER 1000:1000
ENTRYPOINT ["deploy/launch.sh"]
