# headsweep on a CPU, for models of an unknown origin:
#
#   docker build -t headsweep .
#   docker run --rm --network none -v "$PWD:/work" headsweep probe ./suspect --data clean.csv
#
# Without a GPU, PyTorch's index of CPU wheels makes the image some gigabytes smaller:
# --build-arg PIP_EXTRA_INDEX_URL=ADDRESS.
FROM python:3.11-slim

ARG PIP_EXTRA_INDEX_URL

WORKDIR /src
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY src src
RUN pip install --no-cache-dir --constraint constraints.txt '.[data,report]'

RUN useradd --create-home --uid 1000 headsweep
USER headsweep
WORKDIR /work
ENTRYPOINT ["headsweep"]
