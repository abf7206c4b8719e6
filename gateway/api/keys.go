package api

import (
	"fmt"
	"time"
)

// Time is a moment in RFC 3339, UTC.
type Time struct{ time.Time }

// At returns t in UTC, cut to microseconds so that it survives every store.
func At(t time.Time) Time { return Time{t.UTC().Truncate(time.Microsecond)} }

// MarshalJSON implements json.Marshaler.
func (t Time) MarshalJSON() ([]byte, error) { return t.Time.UTC().MarshalJSON() }

// Duration is a span of time written with its unit, "720h" or "30m".
type Duration time.Duration

// Std returns d as a time.Duration.
func (d Duration) Std() time.Duration { return time.Duration(d) }

// MarshalText implements encoding.TextMarshaler.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if err != nil {
		return fmt.Errorf("a duration needs a unit, such as \"720h\" or \"30m\"")
	}
	*d = Duration(v)
	return nil
}

// Key describes a key and its versions, newest first.
type Key struct {
	Name          string            `json:"name"`
	Purpose       string            `json:"purpose"`
	Algorithm     string            `json:"algorithm"` // of the next version
	Bits          int               `json:"bits"`      // of the next version
	Description   string            `json:"description,omitempty"`
	Tags          map[string]string `json:"tags,omitempty"`
	Token         string            `json:"token"`
	ActiveVersion uint32            `json:"active_version"` // 0: none
	Epoch         uint64            `json:"epoch"`
	CreatedAt     Time              `json:"created_at"`
	DeleteAt      Time              `json:"delete_at,omitzero"`     // the key and every version are to be destroyed then
	NextRotation  Time              `json:"next_rotation,omitzero"` // by time, if the policy says so
	Rotation      string            `json:"rotation,omitempty"`     // the one that runs
	Policy        Policy            `json:"policy"`
	Versions      []Version         `json:"versions"`
}

// Policy says how a key lives. A policy that is set replaces the whole of the
// one before.
type Policy struct {
	Period        Duration `json:"period"`             // rotate by itself after this long; 0s: never
	Schedule      string   `json:"schedule,omitempty"` // cron expression of five fields, UTC
	MaxOperations uint64   `json:"max_operations,omitzero"`
	MaxBytes      uint64   `json:"max_bytes,omitzero"`
	Announce      Duration `json:"announce,omitzero"` // from publication to activation
	Acks          *Acks    `json:"acks,omitempty"`
	Overlap       Duration `json:"overlap,omitzero"`        // 0s: without end
	AfterOverlap  string   `json:"after_overlap,omitempty"` // archive (default) or destroy
	DestroyDelay  Duration `json:"destroy_delay,omitzero"`  // default 24h
}

// Acks says which subscribed agents must acknowledge a version before it is
// activated.
type Acks struct {
	Require     string   `json:"require"`               // all, quorum or none
	Quorum      int      `json:"quorum,omitzero"`       // percent, with quorum
	Timeout     Duration `json:"timeout,omitzero"`      // from the announcement on
	OnTimeout   string   `json:"on_timeout,omitempty"`  // abort (default) or activate
	AbsentAfter Duration `json:"absent_after,omitzero"` // agents unseen for so long are not waited for; default 24h
}

// Version describes one version.
type Version struct {
	Version       uint32 `json:"version"`
	KeyID         string `json:"kid"`
	State         string `json:"state"`
	Algorithm     string `json:"algorithm"`
	Bits          int    `json:"bits"`
	CreatedAt     Time   `json:"created_at"`
	AnnouncedAt   Time   `json:"announced_at,omitzero"`
	ActivateAt    Time   `json:"activate_at,omitzero"`
	DeactivatedAt Time   `json:"deactivated_at,omitzero"`
	OverlapEndsAt Time   `json:"overlap_ends_at,omitzero"`
	ArchivedAt    Time   `json:"archived_at,omitzero"`
	SuspendedAt   Time   `json:"suspended_at,omitzero"`
	RevokedAt     Time   `json:"revoked_at,omitzero"`
	RevokeReason  string `json:"revoke_reason,omitempty"`
	DestroyAt     Time   `json:"destroy_at,omitzero"`
	DestroyedAt   Time   `json:"destroyed_at,omitzero"`
	PublicKey     string `json:"public_key,omitempty"` // PEM, SubjectPublicKeyInfo
	JWK           *JWK   `json:"jwk,omitempty"`
	HSM           HSM    `json:"hsm"`
}

// HSM says what the token reported of the version's objects.
type HSM struct {
	Token            string `json:"token"`
	CKAID            string `json:"cka_id"` // hexadecimal
	NeverExtractable bool   `json:"never_extractable"`
	AlwaysSensitive  bool   `json:"always_sensitive"`
}

// JWK is a public JSON Web Key (RFC 7517, RFC 7518 section 6, RFC 8037).
type JWK struct {
	KeyType   string `json:"kty"`
	Use       string `json:"use"` // sig or enc
	Algorithm string `json:"alg"`
	KeyID     string `json:"kid"`
	Curve     string `json:"crv,omitempty"`
	X         string `json:"x,omitempty"`
	Y         string `json:"y,omitempty"`
	N         string `json:"n,omitempty"`
	E         string `json:"e,omitempty"`
}

// JWKS is a JWK Set: the public keys of pre-activation, active and
// deactivated versions.
type JWKS struct {
	Keys []JWK `json:"keys"`
}

// KeyStatus is the state of one version, for those who hold its public key.
type KeyStatus struct {
	KeyID     string `json:"kid"`
	State     string `json:"state"`
	RevokedAt Time   `json:"revoked_at,omitzero"`
}

// StatusSet stands beside a JWKS and says of every version that was
// published what has become of it.
type StatusSet struct {
	Keys []KeyStatus `json:"keys"`
}

// KeyList is a page of keys in order of their names. Next, if not empty, is
// the after parameter of the next page. Damaged, on the first page, are the
// names of keys of which what is stored was altered: nothing is done with
// them.
type KeyList struct {
	Keys    []Key    `json:"keys"`
	Next    string   `json:"next,omitempty"`
	Damaged []string `json:"damaged,omitempty"`
}
