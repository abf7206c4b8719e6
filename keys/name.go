package keys

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
)

// MaxNameLen is the longest key name in bytes. With ".v4294967295" behind it
// a label stays within the 63 bytes that an RFC 1123 label allows.
const MaxNameLen = 48

// ReservedPrefix begins the names that Keyhole keeps for its own objects (the
// canary, the row MAC key, the audit key). Users cannot create them.
const ReservedPrefix = "keyhole-"

// AuditKeyName is the key that signs checkpoints of the audit log, and the
// only one of the reserved names that is a key of the store. It lives and
// rotates as others do; nobody signs anything else with it.
const AuditKeyName = ReservedPrefix + "audit"

// Reserved reports whether name is one that Keyhole keeps for itself.
func Reserved(name string) bool { return strings.HasPrefix(name, ReservedPrefix) }

// OwnObject reports whether objects of the key name on a token are Keyhole's
// own and no versions of a key in the store.
func OwnObject(name string) bool { return Reserved(name) && name != AuditKeyName }

// CheckName reports whether name may name a key: an RFC 1123 label of 1 to
// 48 bytes, [a-z0-9]([a-z0-9-]{0,46}[a-z0-9])?. The error is ErrInvalid.
func CheckName(name string) error {
	if name == "" {
		return Errorf(ErrInvalid, "the key name is empty; use 1 to %d of a-z, 0-9 and '-'", MaxNameLen)
	}
	if len(name) > MaxNameLen {
		return Errorf(ErrInvalid, "the key name has %d bytes; %d is the most", len(name), MaxNameLen)
	}
	for i := range len(name) {
		c := name[i]
		alnum := c >= 'a' && c <= 'z' || c >= '0' && c <= '9'
		edge := i == 0 || i == len(name)-1
		if !alnum && (c != '-' || edge) {
			return Errorf(ErrInvalid, "the key name %q must be an RFC 1123 label: a-z, 0-9 and inner '-'", name)
		}
	}
	return nil
}

// CheckNewName is CheckName for a key about to be created: it also refuses
// the names that Keyhole keeps for itself.
func CheckNewName(name string) error {
	if err := CheckName(name); err != nil {
		return err
	}
	if Reserved(name) {
		return Errorf(ErrInvalid, "key names that begin with %q are reserved", ReservedPrefix)
	}
	return nil
}

// VersionID names one version of one key. Its text form, "payments.v3", is
// the CKA_LABEL of the HSM objects, the kid in JWKS, JWS and JWE, and the id
// in the audit log.
type VersionID struct {
	Key    string
	Number uint32 // from 1
}

// String returns the text form, "payments.v3".
func (id VersionID) String() string {
	return id.Key + ".v" + strconv.FormatUint(uint64(id.Number), 10)
}

// ParseVersionID reads the one spelling that String writes: no leading
// zeros, no sign, a valid name. The error is ErrInvalid.
func ParseVersionID(s string) (VersionID, error) {
	// Bounding the text first keeps hostile input out of error messages.
	if len(s) > MaxNameLen+len(".v4294967295") {
		return VersionID{}, Errorf(ErrInvalid, "the version id has %d bytes; it looks like \"payments.v3\"", len(s))
	}
	name, num, ok := strings.Cut(s, ".v")
	n, err := strconv.ParseUint(num, 10, 32)
	id := VersionID{Key: name, Number: uint32(n)}
	if !ok || err != nil || n == 0 || CheckName(name) != nil || id.String() != s {
		return VersionID{}, Errorf(ErrInvalid, "%q is no version id; one looks like \"payments.v3\"", s)
	}
	return id, nil
}

// ObjectID is the CKA_ID of a version's HSM objects: 16 random bytes, chosen
// and stored before the objects are generated, so that a crash between the
// two can be repaired.
type ObjectID [16]byte

// NewObjectID returns a random id.
func NewObjectID() ObjectID {
	var id ObjectID
	rand.Read(id[:]) // crypto/rand.Read never fails (Go 1.24)
	return id
}

// String returns the id in lower-case hexadecimal.
func (id ObjectID) String() string { return hex.EncodeToString(id[:]) }

// ParseObjectID reads what String wrote.
func ParseObjectID(s string) (ObjectID, error) {
	var id ObjectID
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(id) || strings.ToLower(s) != s {
		return ObjectID{}, fmt.Errorf("an object id has %d lower-case hexadecimal digits", 2*len(id))
	}
	copy(id[:], b)
	return id, nil
}

// MarshalText implements encoding.TextMarshaler.
func (id ObjectID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (id *ObjectID) UnmarshalText(b []byte) error {
	parsed, err := ParseObjectID(string(b))
	if err == nil {
		*id = parsed
	}
	return err
}
