package module

import (
	"time"

	"github.com/miekg/pkcs11"

	"keyhole/hsm/internal/fault"
	"keyhole/hsm/internal/p11call"
)

// ops are the names of an operation's Init, and of itself.
var ops = [...]struct{ init, use string }{
	p11call.Sign:    {fault.OpSignInit, fault.OpSign},
	p11call.Encrypt: {fault.OpEncryptInit, fault.OpEncrypt},
	p11call.Decrypt: {fault.OpDecryptInit, fault.OpDecrypt},
}

// Do has a key do one operation with in, whose output should have at most size
// bytes.
func (s *Session) Do(op p11call.Op, m *p11call.Mechanism, key pkcs11.ObjectHandle, in []byte, size int) ([]byte, error) {
	start := time.Now()
	out, began, err := s.t.mod.calls.Do(op, s.h, m, key, in, size)
	name := ops[op].use
	if !began {
		name = ops[op].init
	}
	return out, s.Note(name, start, err)
}

// Random returns n bytes of the token's.
func (s *Session) Random(n int) ([]byte, error) {
	start := time.Now()
	b := make([]byte, n)
	if err := s.Note(fault.OpRandom, start, s.t.mod.calls.Random(s.h, b)); err != nil {
		return nil, err
	}
	return b, nil
}
