package show

import (
	"fmt"
	"io"
	"strings"
	"time"

	"keyhole/cmd/keyhole/internal/app"
	"keyhole/cmd/keyhole/internal/term"
	"keyhole/cmd/keyhole/internal/units"
	"keyhole/gateway/api"
	"keyhole/keys"
)

// Rotation writes one rotation whole.
func Rotation(r api.Rotation, now time.Time) func(io.Writer) error {
	return func(w io.Writer) error {
		rows := [][]string{
			{"rotation", r.ID},
			{"key", r.Key},
			{"versions", fmt.Sprintf("%d -> %d", r.From, r.To)},
			{"reason", r.Reason},
			{"phase", r.Phase},
			{"started", app.Stamp(r.StartedAt.Time)},
		}
		add := func(name, text string) {
			if text != "" {
				rows = append(rows, []string{name, text})
			}
		}
		stamp := func(name string, t api.Time) {
			if !t.IsZero() {
				add(name, app.Stamp(t.Time))
			}
		}
		add("note", r.Note)
		stamp("announced", r.AnnouncedAt)
		if a := r.Acks; a != nil {
			rows = append(rows, acksRows(*a)...)
		}
		stamp("switch", r.ActivateAt)
		if n := r.Next; n != nil {
			add("next", Next(*n, now))
		}
		rows = append(rows, []string{"completed", app.Stamp(r.CompletedAt.Time)}, []string{"by", r.StartedBy})
		add("forced by", r.ForcedBy)
		add("ended by", r.EndedBy)
		rows = append(rows, []string{"request", app.Or(r.RequestID)}, []string{"error", app.Or(r.Error)})
		return term.Table(w, rows...)
	}
}

func acksRows(a api.RotationAcks) [][]string {
	who := a.Require
	if a.Require == string(keys.AckQuorum) {
		who = fmt.Sprintf("%d%%", a.Quorum)
	}
	wait := "waits for " + who
	if !a.Deadline.IsZero() {
		wait += fmt.Sprintf(" until %s, then %s", app.Stamp(a.Deadline.Time), orDefault(a.OnTimeout, string(keys.TimeoutAbort)))
	}
	rows := [][]string{{"acks", wait}}
	for _, at := range a.Acknowledged {
		rows = append(rows, []string{"  acknowledged", at.Principal + " at " + app.Stamp(at.At.Time)})
	}
	for _, p := range a.Missing {
		rows = append(rows, []string{"  missing", p})
	}
	for _, p := range a.Skipped {
		rows = append(rows, []string{"  skipped", p + " (absent)"})
	}
	return rows
}

// Next says what happens next and when.
func Next(n api.NextStep, now time.Time) string {
	text := n.Text
	if text == "" {
		text = n.Step
	}
	if !n.At.IsZero() {
		text += fmt.Sprintf(" (at %s, %s)", app.Stamp(n.At.Time), units.In(n.At.Time, now))
	}
	return text
}

// mostMissing is how many of those who are waited for a line names.
const mostMissing = 3

// Progress says in one line how a rotation stands, and apart from it how long
// it is until what comes next.
func Progress(r api.Rotation, now time.Time) (state, countdown string) {
	state = fmt.Sprintf("%s.v%d: %s", r.Key, r.To, r.Phase)
	if a := r.Acks; a != nil && !keys.Phase(r.Phase).Done() {
		state += fmt.Sprintf(", %d of %d acknowledged", len(a.Acknowledged), len(a.Acknowledged)+len(a.Missing))
		if len(a.Missing) > 0 {
			names := a.Missing[:min(len(a.Missing), mostMissing)]
			state += ", missing " + strings.Join(names, ", ")
			if more := len(a.Missing) - len(names); more > 0 {
				state += fmt.Sprintf(" and %d more", more)
			}
		}
	}
	if n := r.Next; n != nil {
		state += "; next: " + n.Step
		if !n.At.IsZero() {
			countdown = units.In(n.At.Time, now)
		}
	}
	return state, countdown
}

// Outcome says in one line how a rotation stands or ended.
func Outcome(r api.Rotation) string {
	text := fmt.Sprintf("%s.v%d -> %s.v%d: %s (rotation %s)", r.Key, r.From, r.Key, r.To, r.Phase, r.ID)
	if r.Error != "" {
		text += ": " + r.Error
	}
	if n := r.Next; n != nil {
		text += "; next: " + n.Text
		if !n.At.IsZero() {
			text += " at " + app.Stamp(n.At.Time)
		}
	}
	return text
}
