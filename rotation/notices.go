package rotation

import (
	"time"

	"keyhole/keys"
)

// notice tells of version n of k. Engine.act and the steps of a rotation fill
// in when it was written.
func notice(t keys.NoticeType, k *keys.Key, n uint32, when time.Time, reason string) keys.Notice {
	return keys.Notice{Type: t, Key: k.Name, Version: n, When: when, Reason: reason}
}

// stamp fills in what all notices of one change have in common.
func stamp(notices []keys.Notice, key string, now time.Time) {
	for i := range notices {
		n := &notices[i]
		n.Key, n.At = key, now
		if n.When.IsZero() {
			n.When = now
		}
	}
}

// switched tells which version an act has put in the place of which: before
// and after are the key around it.
func switched(before, after *keys.Key, now time.Time, reason string) (notices []keys.Notice) {
	was, is := before.ActiveAt(now), after.ActiveAt(now)
	if is != nil && (was == nil || was.Number != is.Number) {
		notices = append(notices, notice(keys.NoticeActivated, after, is.Number, now, reason))
	}
	if was != nil && (is == nil || was.Number != is.Number) {
		notices = append(notices, deactivated(after, was.Number, now, now, reason)...)
	}
	return notices
}

// deactivated tells that version n gave way to another one, if that is what
// became of it.
func deactivated(after *keys.Key, n uint32, when, now time.Time, reason string) []keys.Notice {
	v, err := after.Version(n)
	if err != nil || after.StateAt(v, now) != keys.Deactivated {
		return nil
	}
	return []keys.Notice{notice(keys.NoticeDeactivated, after, n, when, reason)}
}
