package keys

import (
	"crypto/sha256"
	"encoding/hex"
	"time"
)

// Agent is a principal that was seen, subscribed or blocked.
type Agent struct {
	Principal string
	FirstSeen time.Time // zero: never, only blocked
	LastSeen  time.Time
	Block     *Block // nil: not blocked
}

// Block is the order to refuse a principal, whatever its credentials say.
type Block struct {
	At     time.Time
	By     string
	Reason string
}

// AgentID names a principal in a URL: 32 hexadecimal digits of the SHA-256 of
// the principal, which may hold slashes itself.
func AgentID(principal string) string {
	sum := sha256.Sum256([]byte(principal))
	return hex.EncodeToString(sum[:16])
}

// Subscription is an agent's wish to be counted in a key's acknowledgements.
type Subscription struct {
	Key       string
	Principal string
	Since     time.Time
}

// Ack is an agent's word that it has a version.
type Ack struct {
	Key       string
	Version   uint32
	Principal string
	At        time.Time
}
