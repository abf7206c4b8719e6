package store

import (
	"database/sql/driver"
	"encoding/json"
	"fmt"
	"time"

	"keyhole/keys"
)

// stamp is a time in the database: microseconds since 1970, NULL for the
// zero time.
type stamp time.Time

// Value implements driver.Valuer.
func (s stamp) Value() (driver.Value, error) {
	if time.Time(s).IsZero() {
		return nil, nil
	}
	return time.Time(s).UnixMicro(), nil
}

// Scan implements sql.Scanner.
func (s *stamp) Scan(v any) error {
	switch v := v.(type) {
	case nil:
		*s = stamp{}
	case int64:
		*s = stamp(time.UnixMicro(v).UTC())
	default:
		return fmt.Errorf("a time is stored as %T", v)
	}
	return nil
}

// tags are a key's tags in the database: a JSON object.
type tags map[string]string

// Value implements driver.Valuer.
func (t tags) Value() (driver.Value, error) {
	if len(t) == 0 {
		return "{}", nil
	}
	b, err := json.Marshal(map[string]string(t))
	return string(b), err
}

// Scan implements sql.Scanner.
func (t *tags) Scan(v any) error {
	s, ok := v.(string)
	if !ok {
		return fmt.Errorf("tags are stored as %T", v)
	}
	m := map[string]string{}
	if err := json.Unmarshal([]byte(s), &m); err != nil {
		return fmt.Errorf("reading tags: %w", err)
	}
	*t = nil
	if len(m) > 0 {
		*t = m
	}
	return nil
}

const keyColumns = `name, purpose, algorithm, bits, description, tags, token, period, epoch, created_at`

type scanner interface{ Scan(dest ...any) error }

func scanKey(row scanner) (*keys.Key, error) {
	k := &keys.Key{}
	var period int64
	err := row.Scan(&k.Name, &k.Purpose, &k.Algorithm, &k.Bits, &k.Description, (*tags)(&k.Tags), &k.Token, &period, &k.Epoch, (*stamp)(&k.CreatedAt))
	if err != nil {
		return nil, err
	}
	k.Policy.Period = time.Duration(period) * time.Microsecond
	if keys.CheckName(k.Name) != nil || !k.Algorithm.Known() || k.Algorithm.Purpose() != k.Purpose {
		return nil, damaged("key %q, purpose %q, algorithm %q", k.Name, k.Purpose, k.Algorithm)
	}
	return k, nil
}

func keyValues(k *keys.Key) []any {
	return []any{
		k.Name, k.Purpose, k.Algorithm, k.Bits, k.Description, tags(k.Tags), k.Token, k.Policy.Period.Microseconds(), k.Epoch, stamp(k.CreatedAt),
	}
}

const versionColumns = `key_name, number, cka_id, algorithm, bits, public_key, check_value, never_extractable, always_sensitive, reserved_at, created_at,
	announced_at, activate_at, suspended_at, revoked_at, archived_at, destroy_at, destroyed_at, revoke_reason`

func scanVersion(row scanner) (key string, v *keys.Version, err error) {
	v = &keys.Version{}
	var id []byte
	err = row.Scan(&key, &v.Number, &id, &v.Algorithm, &v.Bits, &v.PublicKey, &v.Check, &v.NeverExtractable, &v.AlwaysSensitive,
		(*stamp)(&v.ReservedAt), (*stamp)(&v.CreatedAt), (*stamp)(&v.AnnouncedAt), (*stamp)(&v.ActivateAt), (*stamp)(&v.SuspendedAt),
		(*stamp)(&v.RevokedAt), (*stamp)(&v.ArchivedAt), (*stamp)(&v.DestroyAt), (*stamp)(&v.DestroyedAt), &v.RevokeReason)
	if err != nil {
		return "", nil, err
	}
	if copy(v.ObjectID[:], id) != len(v.ObjectID) || len(id) != len(v.ObjectID) || v.Number == 0 || !v.Algorithm.Known() {
		return "", nil, damaged("version %d of key %q, algorithm %q", v.Number, key, v.Algorithm)
	}
	return key, v, nil
}

func versionValues(key string, v *keys.Version) []any {
	return []any{
		key, v.Number, v.ObjectID[:], v.Algorithm, v.Bits, v.PublicKey, v.Check, v.NeverExtractable, v.AlwaysSensitive,
		stamp(v.ReservedAt), stamp(v.CreatedAt), stamp(v.AnnouncedAt), stamp(v.ActivateAt), stamp(v.SuspendedAt),
		stamp(v.RevokedAt), stamp(v.ArchivedAt), stamp(v.DestroyAt), stamp(v.DestroyedAt), v.RevokeReason,
	}
}

const rotationColumns = `id, key_name, from_version, to_version, reason, phase, started_by, request_id, started_at, completed_at, error`

func scanRotation(row scanner) (*keys.Rotation, error) {
	r := &keys.Rotation{}
	err := row.Scan(&r.ID, &r.Key, &r.From, &r.To, &r.Reason, &r.Phase, &r.StartedBy, &r.RequestID,
		(*stamp)(&r.StartedAt), (*stamp)(&r.CompletedAt), &r.Error)
	if err != nil {
		return nil, err
	}
	return r, nil
}

func rotationValues(r *keys.Rotation) []any {
	return []any{
		r.ID, r.Key, r.From, r.To, r.Reason, r.Phase, r.StartedBy, r.RequestID, stamp(r.StartedAt), stamp(r.CompletedAt), r.Error,
	}
}
