# syntax=docker/dockerfile:1
# docker build --target verify --tag harness-verify .     verify, sign and recompute: what a deploy job needs, without torch
# docker build --tag harness .                            all that trains and measures
FROM python:3.12-slim AS verify
RUN --mount=type=bind,target=/src,rw pip install --no-cache-dir '/src[recompute,sign]' \
 && useradd --create-home --uid 1000 harness
ENV HF_HUB_DISABLE_TELEMETRY=1
USER 1000
WORKDIR /work
ENTRYPOINT ["harness"]
CMD ["--help"]

FROM verify AS hf
USER 0
RUN --mount=type=bind,target=/src,rw pip install --no-cache-dir '/src[all]'
USER 1000
