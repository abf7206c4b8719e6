package module

import (
	"errors"
	"maps"
	"sync"
	"time"

	"github.com/miekg/pkcs11"

	"keyhole/hsm/internal/fault"
)

// numbers are the handles of open sessions, and whose they are. When a token is
// reset it forgets its sessions, and soon gives their numbers out again, to
// whoever finds out first, while others of us are still in calls over theirs.
// A session that two goroutines use at one time can crash a module.
type numbers struct {
	turn chan struct{} // capacity 1: see alone
	mu   sync.Mutex
	of   map[pkcs11.SessionHandle]*Session
}

func newNumbers() numbers {
	return numbers{turn: make(chan struct{}, 1), of: map[pkcs11.SessionHandle]*Session{}}
}

// turnPatience is how long sessions are opened and closed one by one only.
const turnPatience = time.Second

// alone runs f, which opens or closes a session: one at a time, or a number
// would be closed for one who has it no more, just when another one was given
// it. When such a call hangs the others go on all the same.
func (n *numbers) alone(f func()) {
	select {
	case n.turn <- struct{}{}:
		defer func() { <-n.turn }()
	default:
		patience := time.NewTimer(turnPatience)
		defer patience.Stop()
		select {
		case n.turn <- struct{}{}:
			defer func() { <-n.turn }()
		case <-patience.C:
		}
	}
	f()
}

// take makes number h of t that of s. It fails while another one is in a call over
// it, who then finds that it is lost, and closes it.
func (n *numbers) take(h pkcs11.SessionHandle, s *Session, t *Token) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if old := n.of[h]; old != nil && old != s {
		old.lost.Store(true)
		// In this order, as Exec does it the other way round. Those of
		// management live for one operation.
		if old.busy.Load() || old.RW {
			return false
		}
	}
	n.of[h], s.t = s, t
	s.lost.Store(false)
	return true
}

// give gives the number of s back, and reports whether it still was its own.
func (n *numbers) give(s *Session) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.of[s.h] != s {
		return false
	}
	delete(n.of, s.h)
	return true
}

// sweep forgets the sessions of t that the token does not know any more: before
// crypto11 opens one, and is given a number that one of us would close.
func (t *Token) sweep() {
	n := &t.mod.numbers
	n.alone(func() {
		n.mu.Lock()
		all := maps.Clone(n.of)
		n.mu.Unlock()
		for h, s := range all {
			if s.t != t {
				continue
			}
			if _, err := t.mod.ctx.GetSessionInfo(h); err == nil {
				continue
			}
			s.lost.Store(true)
			n.mu.Lock()
			delete(n.of, h)
			n.mu.Unlock()
		}
	})
}

// openSession opens s, under a number that nobody else uses.
func (t *Token) openSession(s *Session, flags uint) (h pkcs11.SessionHandle, err error) {
	taken := false
	for !taken && err == nil {
		start := time.Now()
		t.mod.numbers.alone(func() {
			if h, err = t.begin(flags); err == nil {
				// Else it stays open for whoever is in a call over it, who closes it.
				taken = t.mod.numbers.take(h, s, t)
			}
		})
		err = t.note(fault.OpOpenSession, start, err)
	}
	if err == nil {
		s.h, s.open, s.epoch = h, true, t.mod.currentEpoch()
	}
	return h, err
}

// begin is C_OpenSession. Some modules (CloudHSM's) have no read-only sessions;
// a session for writing can do all that they can.
func (t *Token) begin(flags uint) (pkcs11.SessionHandle, error) {
	h, err := t.mod.ctx.OpenSession(t.slot.Load().ID, flags|uint(t.writing.Load()))
	if errors.Is(err, pkcs11.Error(pkcs11.CKR_FUNCTION_FAILED)) && (flags|uint(t.writing.Load()))&pkcs11.CKF_RW_SESSION == 0 {
		if h, err = t.mod.ctx.OpenSession(t.slot.Load().ID, flags|pkcs11.CKF_RW_SESSION); err == nil {
			t.writing.Store(pkcs11.CKF_RW_SESSION)
		}
	}
	return h, err
}
