#!/usr/bin/env bash
# The demonstration behind `make demo`: a gateway from nothing, a signature
# that openssl checks, a rotation that nobody notices. Needs keyholed and
# keyhole in KEYHOLE_BIN (bin), softhsm2-util and openssl; leaves nothing behind.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=${KEYHOLE_BIN:-$PWD/bin}:$PATH

dir=$(mktemp -d)
gateway=
finish() {
  status=$?
  trap - EXIT
  if [ -n "$gateway" ] && kill -TERM "$gateway" 2>/dev/null; then wait "$gateway" || true; fi
  if [ $status -ne 0 ] && [ $status -ne 130 ] && [ -s "$dir/log" ]; then
    echo "the demonstration failed; the gateway's log ends with:" >&2
    tail -n 20 "$dir/log" >&2
  fi
  rm -rf "$dir"
  exit $status
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

if [ -t 1 ]; then bold=$'\e[1m' plain=$'\e[0m'; else bold='' plain=''; fi
step() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }
run() { printf '  $ %s\n' "$*"; "$@" | cut -c 1-120 | sed 's/^/  /'; }
fail() { echo "demo: $*" >&2; exit 1; }

step "1. A gateway on a SoftHSM token of its own"
keyholed dev --dir "$dir/gateway" --listen 127.0.0.1:0 --ops-listen 127.0.0.1:0 >"$dir/log" 2>&1 &
gateway=$!
for _ in $(seq 300); do
  [ -s "$dir/gateway/ops.addr" ] && break
  kill -0 "$gateway" 2>/dev/null || fail "keyholed did not start"
  sleep 0.1
done
[ -s "$dir/gateway/ops.addr" ] || fail "keyholed did not listen within 30 s"
KEYHOLE_ADDR=$(cat "$dir/gateway/keyhole.addr")
KEYHOLE_CACERT=$dir/gateway/ca.crt
export KEYHOLE_ADDR KEYHOLE_CACERT
as() { export KEYHOLE_TOKEN_FILE=$dir/gateway/$1.jwt; }
echo "  listening on $KEYHOLE_ADDR"

step "2. The administrator makes a key to sign with and a key to encrypt with, inside the token"
as admin
run keyhole key create payments --algorithm ES256 --description "signs payment orders"
run keyhole key create customers --algorithm A256GCM --description "encrypts customer data"

step "3. An agent signs; openssl, which knows nothing of Keyhole, checks the signature"
as agent
echo "pay 100 EUR to Alice" >"$dir/order.txt"
run keyhole sign payments "$dir/order.txt" --format der -O "$dir/order.sig"
keyhole key public payments >"$dir/payments.pem"
run openssl dgst -sha256 -verify "$dir/payments.pem" -signature "$dir/order.sig" "$dir/order.txt"

step "4. It encrypts; the ciphertext names the version that opens it"
echo "Alice, DE02 1203 0000 0000 2020 51" >"$dir/alice.txt"
keyhole encrypt customers "$dir/alice.txt" --aad "customer 4711" >"$dir/alice.kh1"
run cat "$dir/alice.kh1"

step "5. The administrator rotates both keys"
as admin
run keyhole rotate payments
run keyhole rotate customers --reason scheduled

step "6. The agent notices nothing: version 2 signs, version 1 still verifies and decrypts"
as agent
keyhole sign payments "$dir/order.txt" --format jws >"$dir/order.jws"
run keyhole verify payments --jws-file "$dir/order.jws"
run keyhole verify payments.v1 "$dir/order.txt" --signature-file "$dir/order.sig" --format der
run keyhole decrypt customers "$dir/alice.kh1" --aad "customer 4711"
keyhole decrypt customers "$dir/alice.kh1" --aad "customer 4711" | cmp - "$dir/alice.txt" || fail "decrypted something else"
run keyhole rewrap customers "$dir/alice.kh1" --aad "customer 4711"

step "7. What it may not do is refused"
printf '  $ keyhole rotate payments\n'
if keyhole rotate payments 2>"$dir/refusal"; then fail "an agent could rotate"; fi
sed 's/^/  /' "$dir/refusal"

step "8. Every step is in the audit log; an auditor verifies it with public keys alone"
kill -TERM "$gateway" && wait "$gateway" || fail "the gateway did not end in order"
gateway=
run keyhole audit verify "$dir/gateway/audit" --key "$dir/gateway/audit-keys.pem"
cat "$dir"/gateway/audit/*.jsonl >"$dir/audit"
grep -o '"action":"[a-z-]*"\|"outcome":"[a-z]*"' "$dir/audit" | cut -d'"' -f4 | paste - - | sort | uniq -c | sed 's/^/  /'
for want in create-key sign verify encrypt decrypt rewrap rotate; do
  grep -q "\"action\":\"$want\".*\"outcome\":\"ok\"" "$dir/audit" || fail "no record of $want"
done
grep -q '"action":"rotate".*"outcome":"denied"' "$dir/audit" || fail "no record of the refusal"

step "9. Somebody turns the refusal into a success; the auditor finds the line"
sed -i '/"action":"rotate"/s/"outcome":"denied"/"outcome":"ok"/' "$dir"/gateway/audit/*.jsonl
printf '  $ keyhole audit verify ...\n'
status=0
keyhole audit verify "$dir/gateway/audit" --key "$dir/gateway/audit-keys.pem" >"$dir/finding" || status=$?
[ $status -eq 3 ] || fail "the change was not found"
head -n 1 "$dir/finding" | sed "s#$dir/##; s/^/  /"

step "Done. 'make run' keeps such a gateway running."
