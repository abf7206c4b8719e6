package rotation

import (
	"context"
	"errors"
	"fmt"
	"time"

	"keyhole/keys"
)

// The steps that Progress.Next may name.
const (
	StepAnnounce        = "announce"
	StepSchedule        = "schedule"
	StepActivate        = "activate"
	StepRecord          = "record"
	StepAbort           = "abort"
	StepArchive         = "archive"
	StepScheduleDestroy = "schedule-destroy"
	StepDestroy         = "destroy"
)

// Progress is how far a rotation has come with its agents, and what happens
// next.
type Progress struct {
	Acked   []keys.Ack
	Missing []string // waited for; of a rotation that has switched: had not acknowledged
	Skipped []string // absent or blocked, and not waited for

	Next   string    // a step; "": nothing is left to happen
	NextAt time.Time // zero: it waits for agents or people, or comes at once
	Text   string    // for people
}

// Progress says how far r has come. Errors: keys.ErrTampered, ErrStore.
func (e *Engine) Progress(ctx context.Context, r *keys.Rotation) (Progress, error) {
	var p Progress
	now := e.clock()
	var c crowd
	var err error
	switch {
	case !r.Acks.Waits():
	case r.Phase == keys.PhaseAnnounced:
		if c, err = e.crowd(ctx, r, now); err != nil {
			return p, err
		}
		p.Acked, p.Missing, p.Skipped = c.acked, c.missing, c.skipped
	default:
		if p.Acked, p.Missing, err = e.answers(ctx, r); err != nil {
			return p, err
		}
		p.Skipped = r.Skipped
	}
	k, err := e.store.Key(ctx, r.Key)
	if errors.Is(err, keys.ErrKeyNotFound) {
		return p, nil // it was deleted since
	}
	if err != nil {
		return p, err
	}
	p.Next, p.NextAt, p.Text = e.nextStep(k, r, c, now)
	return p, nil
}

// nextStep says what happens next to r, when, and in words.
func (e *Engine) nextStep(k *keys.Key, r *keys.Rotation, c crowd, now time.Time) (step string, at time.Time, text string) {
	none := time.Time{}
	timed := e.asAnnounced(r, now)
	if undoing(r) {
		return StepAbort, none, "the new version is destroyed: " + r.Error
	}
	if v, err := k.Version(r.To); err == nil && !v.SuspendedAt.IsZero() && (r.Phase == keys.PhaseAnnounced || r.Phase == keys.PhaseScheduled) {
		return StepActivate, none, "the new version is suspended: resume it, or abort the rotation"
	}
	switch r.Phase {
	case keys.PhaseReserved:
		return StepAnnounce, none, "the HSM generates the new version; then it is published"
	case keys.PhaseAnnounced:
		switch due := timed.Due(); {
		case now.Before(due):
			return StepSchedule, due, "the new version is published and not used yet, until its announce time is over"
		case c.satisfied(r.Acks):
			return StepSchedule, none, "the moment of the switch is set"
		default:
			return StepSchedule, none, fmt.Sprintf("waiting for acknowledgements: %d there, %d missing; at %s the rotation is %s", len(c.acked), len(c.missing),
				timed.AckDeadline().UTC().Format(time.RFC3339), map[bool]string{true: "activated all the same", false: "aborted"}[r.Acks.OnTimeout == keys.TimeoutActivate])
		}
	case keys.PhaseScheduled:
		return StepActivate, r.SwitchAt, "every gateway switches to the new version by its clock"
	case keys.PhaseActivated:
		return StepRecord, none, "the new version is active; the outcome goes into the audit log"
	case keys.PhaseCompleted:
		return e.predecessorStep(k, r.From, now)
	}
	return "", none, ""
}

// predecessorStep says what becomes of the version that was replaced.
func (e *Engine) predecessorStep(k *keys.Key, n uint32, now time.Time) (step string, at time.Time, text string) {
	v, err := k.Version(n)
	if err != nil {
		return "", time.Time{}, ""
	}
	switch k.StateAt(v, now) {
	case keys.Deactivated:
		end := k.OverlapEndsAt(v, now)
		switch {
		case end.IsZero():
			return "", end, ""
		case k.Policy.AfterOverlap == keys.OverlapDestroy:
			return StepScheduleDestroy, end, fmt.Sprintf("version %d serves until its overlap ends; then its destruction is scheduled", n)
		}
		return StepArchive, end, fmt.Sprintf("version %d serves until its overlap ends; then it is archived", n)
	case keys.DestroyScheduled:
		return StepDestroy, v.DestroyAt, fmt.Sprintf("version %d is destroyed, unless it is restored", n)
	}
	return "", time.Time{}, ""
}
