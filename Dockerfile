# One image for API, workers and dispatcher; docker-compose.yml says which is which.
FROM python:3.11-slim-bookworm

RUN useradd --create-home --uid 1000 modelpress && install -d -o modelpress -g modelpress /data
WORKDIR /srv/modelpress

# torch first: it is large and changes seldom. Point pip at a build for CPUs with --build-arg PIP_EXTRA_INDEX_URL=….
ARG PIP_EXTRA_INDEX_URL=
COPY constraints.txt ./
RUN pip install --no-cache-dir torch==2.13.0 -c constraints.txt

COPY pyproject.toml README.md LICENSE NOTICE ./
COPY api api
COPY core core
COPY demo demo
COPY launch launch
COPY migrations migrations
COPY modelpress modelpress
COPY runner runner
COPY workers workers
RUN pip install --no-cache-dir . -c constraints.txt

USER modelpress
VOLUME /data
EXPOSE 8000
CMD ["python", "-m", "api.setup"]
