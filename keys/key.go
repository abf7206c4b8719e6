package keys

import (
	"bytes"
	"crypto/sha256"
	"maps"
	"slices"
	"time"
)

// Key is a named series of versions with one purpose and one policy.
//
// A *Key that came out of a snapshot is shared and immutable: Clone it
// before changing anything.
type Key struct {
	Name        string
	Purpose     Purpose
	Algorithm   Algorithm // of the next version
	Bits        int       // of the next version
	Description string
	Tags        map[string]string
	Token       string // the configured name of the token that holds every version
	Policy      Policy
	Epoch       uint64 // grows by one with every change; compare-and-swap on it
	CreatedAt   time.Time
	DeleteAt    time.Time  // the whole key is to be destroyed then; zero: no such order
	Versions    []*Version // ascending by Number

	// Damaged: the store's rows of this key are not what Keyhole wrote. It is
	// known by name only, and nothing may be done with it.
	Damaged bool
}

// Version is one HSM object or pair. Its facts are times; its state is
// computed from them (Key.StateAt), never stored.
type Version struct {
	Number    uint32
	ObjectID  ObjectID // CKA_ID, reserved before generation
	Algorithm Algorithm
	Bits      int
	Label     string // CKA_LABEL of objects that another tool made; "": the version id

	// PublicKey is the DER SubjectPublicKeyInfo; empty for secret keys.
	PublicKey []byte
	// Check identifies the key material, to be compared after handles are
	// found again: SHA-256 of PublicKey, or a key check value.
	Check []byte
	// NeverExtractable and AlwaysSensitive are what the token answered
	// after generation (CKA_NEVER_EXTRACTABLE, CKA_ALWAYS_SENSITIVE).
	NeverExtractable bool
	AlwaysSensitive  bool

	ReservedAt  time.Time // the number was taken
	CreatedAt   time.Time // generated, read back and self-tested; zero until then
	AnnouncedAt time.Time // published; zero until then
	ActivateAt  time.Time // signs and encrypts from here on; zero: not planned
	ActivatedAt time.Time // the switch was seen and recorded: no step of a clock undoes it
	SuspendedAt time.Time // zero: not suspended
	RevokedAt   time.Time // zero: not compromised; never cleared
	ArchivedAt  time.Time // zero: not archived
	DestroyAt   time.Time // zero: not scheduled for destruction
	DestroyedAt time.Time // zero: not destroyed; never cleared

	RevokeReason string
}

// ID returns the version's id within key.
func (k *Key) ID(v *Version) VersionID { return VersionID{Key: k.Name, Number: v.Number} }

// Ref names the version's HSM objects.
func (k *Key) Ref(v *Version) Ref {
	label := v.Label
	if label == "" {
		label = k.ID(v).String()
	}
	return Ref{
		Token: k.Token, ID: v.ObjectID, Label: label,
		Algorithm: v.Algorithm, Bits: v.Bits, PublicKey: v.PublicKey, Check: v.Check,
	}
}

// Version returns version n, or ErrVersionNotFound.
func (k *Key) Version(n uint32) (*Version, error) {
	i, ok := slices.BinarySearchFunc(k.Versions, n, func(v *Version, n uint32) int { return int(int64(v.Number) - int64(n)) })
	if !ok {
		return nil, Errorf(ErrVersionNotFound, "key %q has no version %d", k.Name, n)
	}
	return k.Versions[i], nil
}

// Latest returns the version with the highest number, or nil.
func (k *Key) Latest() *Version {
	if len(k.Versions) == 0 {
		return nil
	}
	return k.Versions[len(k.Versions)-1]
}

// Clone returns a deep copy.
func (k *Key) Clone() *Key {
	c := *k
	c.Tags = maps.Clone(k.Tags)
	c.Versions = make([]*Version, len(k.Versions))
	for i, v := range k.Versions {
		w := *v
		w.PublicKey = bytes.Clone(v.PublicKey)
		w.Check = bytes.Clone(v.Check)
		c.Versions[i] = &w
	}
	return &c
}

// Ref names the HSM objects of one version and what must be true of them.
type Ref struct {
	Token     string
	ID        ObjectID
	Label     string // CKA_LABEL: the version id, unless another tool made the objects
	Algorithm Algorithm
	Bits      int
	PublicKey []byte // DER SubjectPublicKeyInfo; empty for secret keys
	Check     []byte // Version.Check
}

// PublicKeyCheck is Version.Check of a public key: SHA-256 of its DER
// SubjectPublicKeyInfo.
func PublicKeyCheck(spki []byte) []byte {
	sum := sha256.Sum256(spki)
	return sum[:]
}

// Generated is what a token reports of objects that it has just generated:
// read back and checked, not assumed.
type Generated struct {
	PublicKey        []byte // DER SubjectPublicKeyInfo; empty for secret keys
	Check            []byte // as Version.Check
	NeverExtractable bool
	AlwaysSensitive  bool
}
