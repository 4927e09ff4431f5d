#!/usr/bin/env bash
# Builds the image and runs it as a deployment would. Needs a Docker daemon; `make docker-test` calls it.
set -euo pipefail
cd "$(dirname "$0")/.."

export DOCKER_BUILDKIT=1
secret=$(openssl rand -hex 32)
image=functions-runtime:smoke
hardened=(--read-only --tmpfs /tmp:mode=1777 --security-opt no-new-privileges:true --network none)
project=(-v "$PWD/functions:/app/functions:ro" -e "JWT_SECRET=$secret")
most=450000000 # bytes without a model
id=""

fail() { echo "FAILED: $*" >&2; [ -z "$id" ] || docker logs "$id" >&2; exit 1; }
step() { printf '%-102s ' "$1"; }
fine() { echo "${1:-ok}"; }
clean() { docker rm --force "$id" >/dev/null 2>&1 || true; id=""; }
trap clean EXIT

# start ARGUMENT…: run a container until it is healthy; its id is in $id
start() {
    id=$(docker run --detach "$@")
    for _ in $(seq 120); do
        case $(docker inspect --format '{{.State.Status}} {{.State.Health.Status}}' "$id") in
            "running healthy") return ;;
            running*) sleep 0.5 ;;
            *) break ;;
        esac
    done
    fail "it did not become healthy"
}

# stop: ask it to end, and expect 0
stop() {
    docker stop --time 20 "$id" >/dev/null
    code=$(docker inspect --format '{{.State.ExitCode}}' "$id")
    [ "$code" = 0 ] || fail "it ended with $code"
    clean
}

# functions ARGUMENT…: the command line inside the container
functions() { docker exec "$id" functions "$@"; }

step "the image is built, with a model and without"
docker build --quiet --file docker/Dockerfile --tag "$image" . >/dev/null
docker build --quiet --file docker/Dockerfile --build-arg MODEL=none --tag "$image-none" . >/dev/null
fine

step "without a model it is smaller than $((most / 1000000)) MB"
bare=$(docker image inspect --format '{{.Size}}' "$image-none")
whole=$(docker image inspect --format '{{.Size}}' "$image")
[ "$bare" -lt "$most" ] || fail "$bare bytes"
fine "$((bare / 1000000)) MB, and $((whole / 1000000)) MB with one"

for weak in "" short your-super-secret-jwt-token-with-at-least-32-characters-long; do
    step "it refuses to start with the secret \"$weak\""
    code=0
    said=$(docker run --rm -e "JWT_SECRET=$weak" "$image" 2>&1) || code=$?
    [ "$code" = 2 ] || fail "it ended with $code"
    grep --quiet "openssl rand -hex 32" <<<"$said" || fail "$said"
    fine
done

for user in 10001:10001 4242:4242 0:0; do
    step "as $user, read-only and without a network, it serves and embeds"
    rights=(--cap-drop ALL)
    [ "$user" != 0:0 ] || rights+=(--cap-add CHOWN --cap-add DAC_OVERRIDE --cap-add KILL --cap-add SETGID --cap-add SETUID)
    start "${project[@]}" "${hardened[@]}" "${rights[@]}" --user "$user" "$image"
    [ "$(functions invoke hello -d '{"name":"Functions"}')" = '{"message":"Hello Functions!"}' ] || fail "hello"
    commas=$(functions invoke embed -q "input=Luke, I am your father" | tr --complement --delete , | wc --chars)
    [ "$commas" = 383 ] || fail "an embedding of another length than 384"
    fine
    step "... and is gone when told to stop, with 0"
    stop
    fine
done

step "as root without the right to change users it says what to do"
code=0
said=$(docker run --rm "${project[@]}" --user 0 --cap-drop ALL "$image" 2>&1) || code=$?
[ "$code" = 3 ] || fail "it ended with $code"
grep --quiet -- "--user 10001:10001" <<<"$said" || fail "$said"
fine

step "a stream that is open when it is told to stop ends whole"
start "${project[@]}" "${hardened[@]}" --cap-drop ALL "$image"
coproc stream { functions invoke stream -q n=4 -q interval=1; }
grep --quiet --max-count 1 "data: 1 of 4" <&"${stream[0]}"
exec {rest}<&"${stream[0]}"
docker stop --time 20 "$id" >/dev/null &
grep --quiet "data: 4 of 4" <&"$rest" || fail "the stream broke off"
wait
[ "$(docker inspect --format '{{.State.ExitCode}}' "$id")" = 0 ] || fail "it did not end with 0"
clean
fine

step "process 1 buries what others leave behind"
start "${project[@]}" "${hardened[@]}" --cap-drop ALL "$image"
docker exec "$id" sh -c 'sleep 0.1 & exit'
for _ in $(seq 50); do # a sleep that is over and still there is a zombie
    left=$(docker exec "$id" sh -c 'grep -l "^Name:.sleep" /proc/[0-9]*/status 2>/dev/null | wc -l')
    [ "$left" != 0 ] || break
    sleep 0.2
done
[ "$left" = 0 ] || fail "$left zombies"
stop
fine

step "the compose files are valid"
JWT_SECRET=$secret docker compose --file docker/compose.yaml config --quiet
! docker compose --env-file /dev/null --file docker/compose.yaml config --quiet 2>/dev/null || fail "a missing secret is accepted"
fine

echo "all fine"
