package keys

import (
	"crypto/rand"
	"time"
)

// NewID returns 26 characters, Crockford base32, that sort by time of
// creation (the ULID layout: 48 bits of milliseconds, 80 random bits): the id
// of a rotation or an approval.
func NewID(now time.Time) string {
	const alphabet = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
	var b [16]byte
	ms := uint64(now.UnixMilli())
	for i := range 6 {
		b[i] = byte(ms >> (40 - 8*i))
	}
	rand.Read(b[6:])
	out := make([]byte, 0, 26)
	var acc, bits uint = 0, 2 // 130 bits: two zero bits go first
	for _, c := range b {
		acc, bits = acc<<8|uint(c), bits+8
		for bits >= 5 {
			bits -= 5
			out = append(out, alphabet[acc>>bits&31])
		}
		acc &= 1<<bits - 1
	}
	return string(out)
}
