package keys

import "time"

// ObjectClass is what an object on a token is.
type ObjectClass string

// The classes (CKO_PRIVATE_KEY, CKO_PUBLIC_KEY, CKO_SECRET_KEY).
const (
	ClassPrivate ObjectClass = "private"
	ClassPublic  ObjectClass = "public"
	ClassSecret  ObjectClass = "secret"
)

// TokenObject is one key object as a token lists it.
type TokenObject struct {
	Token string
	Class ObjectClass
	Label string // CKA_LABEL
	ID    []byte // CKA_ID, of any length

	// Algorithms are those that the object can be a version of, by its key
	// type, curve, size and usage attributes; none if Keyhole has no use for it.
	Algorithms []Algorithm
	Bits       int
	// PublicKey is the DER SubjectPublicKeyInfo; empty for secret keys, and
	// where the token does not tell.
	PublicKey        []byte
	Extractable      bool
	NeverExtractable bool
	Sensitive        bool
	AlwaysSensitive  bool
}

// RevocationMark is an object on a token that says for good that a version is
// compromised. It outlives the database, and copies of it that are put back.
type RevocationMark struct {
	Token     string
	Version   VersionID
	ObjectID  ObjectID // CKA_ID of the version
	RevokedAt time.Time
}
