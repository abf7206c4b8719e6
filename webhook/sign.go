package webhook

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"keyhole/audit"
	"keyhole/gateway/api"
	"keyhole/keys"
	"keyhole/store"
)

// Crypto signs in the HSM, as gateway.Crypto does: a digest for EC and RSA,
// the message itself for EdDSA. ECDSA signatures are r||s.
type Crypto interface {
	Sign(ctx context.Context, ref keys.Ref, input []byte) ([]byte, error)
}

// Snapshots serves the keys, or keys.ErrStale.
type Snapshots interface {
	Snapshot() (*store.Snapshot, error)
}

// Auditor records. Append returns nil only when the records are durable.
type Auditor interface {
	Append(ctx context.Context, recs ...audit.Record) (first uint64, err error)
}

// Usage counts what versions are used for, before they are used.
type Usage interface {
	Count(ctx context.Context, key string, version uint32, principal string, use keys.Use, bytes int) error
}

// Signer signs deliveries on behalf of the system, with what every signature
// of the gateway goes through: the state of the version, its usage, the
// audit log. What cannot be recorded is not sent.
type Signer struct {
	Crypto    Crypto
	Snapshots Snapshots
	Audit     Auditor
	Usage     Usage
}

// Bounds of one signature and of its record.
const (
	signTimeout   = 30 * time.Second
	recordTimeout = 10 * time.Second
)

// jwsType tells a delivery from every other JWS that its key may have made
// (RFC 8725, 3.11).
const jwsType = "keyhole-event"

// protected is the JWS header. Binding the webhook, the delivery and the
// moment into what is signed is what stops somebody who saw a delivery from
// sending it elsewhere, as another, or later.
type protected struct {
	Algorithm keys.Algorithm `json:"alg"`
	KeyID     string         `json:"kid"`
	Type      string         `json:"typ"`
	Audience  string         `json:"aud"`
	IssuedAt  int64          `json:"iat"`
	Delivery  string         `json:"jti"`
}

// sign returns a detached JWS over a delivery. Errors are those of the key,
// the HSM and the audit log.
func (s *Signer) sign(ctx context.Context, key, hook string, d delivery, now time.Time) (jws string, err error) {
	rec := audit.Record{
		Principal: audit.SystemPrincipal, AuthMethod: audit.SystemPrincipal, Initiator: audit.SystemPrincipal,
		Action: "sign", Key: key, Outcome: audit.OutcomeOK, Size: int64(len(d.body)),
		Details: map[string]string{"webhook": hook, "event": strconv.FormatUint(d.event.ID, 10), "delivery": d.id},
	}
	start := time.Now()
	jws, err = s.apply(ctx, &rec, key, hook, d, now)
	if err != nil {
		rec.Outcome, rec.Reason = audit.OutcomeError, api.CodeOf(err)
	}
	rec.Duration = time.Since(start)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTimeout) // what was signed is recorded, sent or not
	defer cancel()
	if _, rerr := s.Audit.Append(ctx, rec); rerr != nil {
		return "", errors.Join(err, fmt.Errorf("%w: %w", keys.ErrAudit, rerr))
	}
	return jws, err
}

func (s *Signer) apply(ctx context.Context, rec *audit.Record, key, hook string, d delivery, now time.Time) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, signTimeout)
	defer cancel()
	snap, err := s.Snapshots.Snapshot()
	if err != nil {
		return "", err
	}
	k, ok := snap.Key(key)
	switch {
	case !ok:
		return "", keys.Errorf(keys.ErrKeyNotFound, "there is no key %q to sign webhooks with; create it", key)
	case k.Damaged:
		return "", keys.Errorf(keys.ErrTampered, "what is stored of key %q, which signs webhooks, was altered", key)
	case k.Purpose != keys.PurposeSign:
		return "", keys.Errorf(keys.ErrWrongPurpose, "key %q is for encryption and cannot sign webhooks", key)
	}
	v := k.ActiveAt(now)
	if v == nil {
		return "", keys.Errorf(keys.ErrNoActiveVersion, "key %q, which signs webhooks, has no active version", key)
	}
	id := k.ID(v)
	rec.Version, rec.KeyID, rec.Algorithm, rec.Purpose = v.Number, id.String(), string(v.Algorithm), string(k.Purpose)
	if !v.Algorithm.Family().Asymmetric() {
		return "", keys.Errorf(keys.ErrWrongPurpose, "key %q (%s) has no public half, so no receiver could verify; use another key for webhooks", key, v.Algorithm)
	}
	signing, err := signingInput(protected{
		Algorithm: v.Algorithm, KeyID: id.String(), Type: jwsType, Audience: hook, IssuedAt: now.Unix(), Delivery: d.id,
	}, d.body)
	if err != nil {
		return "", err
	}
	if err := s.Usage.Count(ctx, key, v.Number, audit.SystemPrincipal, keys.UseApply, len(d.body)); err != nil {
		return "", err
	}
	input := signing
	if v.Algorithm.TakesDigest() {
		h := v.Algorithm.Hash().New()
		h.Write(signing)
		input = h.Sum(nil)
	}
	sig, err := s.Crypto.Sign(ctx, k.Ref(v), input)
	if err != nil {
		return "", err
	}
	return keys.CompactJWS(signing, sig, true), nil
}

// signingInput returns BASE64URL(header) || '.' || BASE64URL(body).
func signingInput(p protected, body []byte) ([]byte, error) {
	header, err := json.Marshal(p)
	if err != nil {
		return nil, fmt.Errorf("encoding the header of a signature: %w", err)
	}
	var b bytes.Buffer
	enc := base64.RawURLEncoding
	b.Grow(enc.EncodedLen(len(header)) + 1 + enc.EncodedLen(len(body)))
	b.Write(enc.AppendEncode(b.AvailableBuffer(), header))
	b.WriteByte('.')
	b.Write(enc.AppendEncode(b.AvailableBuffer(), body))
	return b.Bytes(), nil
}
