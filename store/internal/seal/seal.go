// Package seal makes the seals of the store's rows: HMAC-SHA256 over every
// field that is stored.
//
// Each kind of row has a label of its own, strings stand behind their length
// and lists behind their count, so that no two rows have one message. What a
// store does not keep (the nanoseconds of times, whether a list is nil or
// empty) is not sealed.
package seal

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"time"

	"keyhole/keys"
)

// KeySize is the length of the key behind the seals, in bytes.
const KeySize = 32

// Sealer makes seals by one key. Its methods may be called concurrently.
type Sealer struct{ key []byte }

// New returns a Sealer. A key of another length than KeySize is
// keys.ErrInternal.
func New(key []byte) (*Sealer, error) {
	if len(key) != KeySize {
		return nil, fmt.Errorf("the key of the store's seals has %d bytes, not %d: %w", len(key), KeySize, keys.ErrInternal)
	}
	return &Sealer{key: bytes.Clone(key)}, nil
}

func (s *Sealer) mac(m message) []byte {
	h := hmac.New(sha256.New, s.key)
	h.Write(m)
	return h.Sum(nil)
}

// Equal reports whether two seals are the same, in constant time. No seal is
// none.
func Equal(a, b []byte) bool { return len(a) == sha256.Size && hmac.Equal(a, b) }

// Key returns the seal of a key's row, with the store's revision that it is
// from, and of all its versions.
func (s *Sealer) Key(k *keys.Key, revision uint64) []byte { return s.mac(keyMessage(k, revision)) }

// Rotation returns the seal of a rotation.
func (s *Sealer) Rotation(r *keys.Rotation) []byte { return s.mac(rotationMessage(r)) }

// Approval returns the seal of an approval.
func (s *Sealer) Approval(a *keys.Approval) []byte { return s.mac(approvalMessage(a)) }

// Text returns the seal of a text that is stored under a name, with the
// revision that it is from.
func (s *Sealer) Text(name, body string, revision uint64) []byte {
	m := newMessage("text", 64+len(body))
	m.texts(name, body)
	m.number(revision)
	return s.mac(m)
}

// message is what a seal is over.
type message []byte

func newMessage(kind string, size int) message {
	return append(make(message, 0, size), "keyhole store 1 "+kind+"\x00"...)
}

func (m *message) number(n uint64) { *m = binary.BigEndian.AppendUint64(*m, n) }

func (m *message) text(s string) {
	m.number(uint64(len(s)))
	*m = append(*m, s...)
}

func (m *message) texts(all ...string) {
	m.number(uint64(len(all)))
	for _, s := range all {
		m.text(s)
	}
}

func (m *message) flag(b bool) {
	if b {
		*m = append(*m, 1)
	} else {
		*m = append(*m, 0)
	}
}

// times writes times as they are stored.
func (m *message) times(all ...time.Time) {
	for _, t := range all {
		m.flag(!t.IsZero())
		if t.IsZero() {
			m.number(0)
		} else {
			m.number(uint64(t.UnixMicro()))
		}
	}
}

func keyMessage(k *keys.Key, revision uint64) message {
	m := newMessage("key", 512+512*len(k.Versions))
	m.text(k.Name)
	m.text(string(k.Purpose))
	m.text(string(k.Algorithm))
	m.number(uint64(k.Bits))
	m.text(k.Description)
	m.number(uint64(len(k.Tags)))
	for _, name := range slices.Sorted(maps.Keys(k.Tags)) {
		m.text(name)
		m.text(k.Tags[name])
	}
	m.text(k.Token)
	m.policy(k.Policy)
	m.number(k.Epoch)
	m.times(k.CreatedAt, k.DeleteAt)
	m.number(revision)
	m.number(uint64(len(k.Versions)))
	for _, v := range k.Versions {
		m.version(v)
	}
	return m
}

func (m *message) version(v *keys.Version) {
	m.number(uint64(v.Number))
	*m = append(*m, v.ObjectID[:]...)
	m.text(string(v.Algorithm))
	m.number(uint64(v.Bits))
	m.text(v.Label)
	m.text(string(v.PublicKey))
	m.text(string(v.Check))
	m.flag(v.NeverExtractable)
	m.flag(v.AlwaysSensitive)
	m.times(v.ReservedAt, v.CreatedAt, v.AnnouncedAt, v.ActivateAt, v.ActivatedAt, v.SuspendedAt, v.RevokedAt, v.ArchivedAt, v.DestroyAt, v.DestroyedAt)
	m.text(v.RevokeReason)
}

func (m *message) policy(p keys.Policy) {
	m.number(uint64(p.Period))
	m.text(p.Schedule)
	m.number(p.MaxOperations)
	m.number(p.MaxBytes)
	m.number(uint64(p.Announce))
	m.acks(p.Acks)
	m.number(uint64(p.Overlap))
	m.text(string(p.AfterOverlap))
	m.number(uint64(p.DestroyDelay))
}

func (m *message) acks(a keys.Acks) {
	m.text(string(a.Require))
	m.number(uint64(a.Quorum))
	m.number(uint64(a.Timeout))
	m.text(string(a.OnTimeout))
	m.number(uint64(a.AbsentAfter))
}

func rotationMessage(r *keys.Rotation) message {
	m := newMessage("rotation", 1024)
	m.texts(r.ID, r.Key, string(r.Reason), r.Note, string(r.Phase), r.StartedBy, r.RequestID, r.Error, r.ForcedBy, r.EndedBy)
	m.number(uint64(r.From))
	m.number(uint64(r.To))
	m.times(r.StartedAt, r.CompletedAt, r.ActivateAt, r.AnnouncedAt, r.SwitchAt)
	m.number(uint64(r.Announce))
	m.acks(r.Acks)
	m.texts(r.Expected...)
	m.texts(r.Skipped...)
	return m
}

func approvalMessage(a *keys.Approval) message {
	m := newMessage("approval", 1024)
	m.texts(a.ID, a.Action, a.Key, a.Note, string(a.State), a.RequestedBy, a.RequestID, a.DecidedBy, a.DecidedNote, a.Error)
	m.number(uint64(a.Version))
	m.flag(a.Force)
	m.times(a.RequestedAt, a.ExpiresAt, a.DecidedAt)
	m.texts(a.RequestedAs...)
	return m
}
