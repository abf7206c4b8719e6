package hsm

import (
	"fmt"
	"time"

	"github.com/sony/gobreaker/v2"

	"keyhole/hsm/internal/probe"
	"keyhole/keys"
)

// TokenHealth is what Health says of a token.
type TokenHealth struct {
	Name          string
	Ready         bool
	Detail        string // why not; else ""
	SessionsInUse int
	SessionsMax   int
	Stuck         int // calls that have run longer than StuckAfter
	Queued        int // operations that wait for a session
	QueuedBulk    int // and those in keys.LaneBulk
	// Hung says that only a restart of the process helps: MaxStuck calls, or
	// the canary or a management operation, hang in the module.
	Hung bool
}

// Health says how the tokens are, in the order of the configuration.
func (h *HSM) Health() []TokenHealth {
	all := make([]TokenHealth, len(h.names))
	for i, name := range h.names {
		all[i] = h.tokens[name].health()
	}
	return all
}

func (t *token) health() TokenHealth {
	th := TokenHealth{Name: t.Name, SessionsMax: t.Sessions}
	th.SessionsInUse, th.Stuck = t.pool.Load(time.Now(), t.StuckAfter)
	th.Queued, th.QueuedBulk = t.pool.Queued()
	down := t.tok.Down()
	trial, trouble := t.canary.State()
	switch {
	case th.Stuck >= t.MaxStuck:
		th.Hung, th.Detail = true, fmt.Sprintf("%d calls hang since more than %s; restart the process", th.Stuck, t.StuckAfter)
	case longer(trial, t.now(), t.StuckAfter):
		th.Hung, th.Detail = true, fmt.Sprintf("the canary hangs since more than %s; restart the process", t.StuckAfter)
	case longer(t.tok.Managing(), time.Now(), manageStuck):
		th.Hung, th.Detail = true, fmt.Sprintf("a management operation hangs since more than %s; restart the process", manageStuck)
	case down != nil:
		th.Detail = down.Error()
	case trouble != nil:
		th.Detail = "the canary failed: " + trouble.Error()
	case t.breaker.Load().State() == gobreaker.StateOpen:
		th.Detail = "not used for a moment after device errors"
	default:
		th.Ready = true
	}
	return th
}

// manageStuck is when a management operation counts as hanging. Generating
// RSA-4096 takes a slow token tens of seconds.
const manageStuck = 3 * time.Minute

// longer reports whether something that began at since, if at all, takes
// longer than limit.
func longer(since, now time.Time, limit time.Duration) bool {
	return !since.IsZero() && now.Sub(since) > limit
}

// TokenInfo is what Describe says of a token.
type TokenInfo struct {
	Name         string // as keys name it
	Module       string // path, without symbolic links
	Label        string
	Serial       string
	Manufacturer string
	Model        string
	Firmware     string
	// Capabilities has every algorithm that Keyhole knows: true where a
	// round trip worked. Limits says of the others why not.
	Capabilities map[keys.Algorithm]bool
	Limits       map[keys.Algorithm]string
	// KeepsMarks says that revocations can be marked on the token, as data
	// objects; PrivateMarks that nobody makes or removes such a mark without
	// the PIN.
	KeepsMarks   bool
	PrivateMarks bool
}

// Describe says what the tokens are, in the order of the configuration.
func (h *HSM) Describe() []TokenInfo {
	all := make([]TokenInfo, len(h.names))
	for i, name := range h.names {
		t := h.tokens[name]
		slot := t.tok.Slot()
		info := TokenInfo{
			Name: name, Module: t.tok.Path(), Label: slot.Label, Serial: slot.SerialNumber,
			Manufacturer: slot.ManufacturerID, Model: slot.Model,
			Firmware:     fmt.Sprintf("%d.%d", slot.FirmwareVersion.Major, slot.FirmwareVersion.Minor),
			Capabilities: map[keys.Algorithm]bool{}, Limits: map[keys.Algorithm]string{},
			KeepsMarks: t.marks.Supported() == nil,
		}
		info.PrivateMarks = info.KeepsMarks && t.marks.Private()
		for alg, limit := range t.can {
			info.Capabilities[alg] = limit == nil
			if limit != nil {
				info.Limits[alg] = probe.Reason(limit)
			}
		}
		all[i] = info
	}
	return all
}
