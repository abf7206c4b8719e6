package rotation

import (
	"context"
	"errors"
	"time"

	"keyhole/keys"
)

// crowd is what the agents of a key say to a version.
type crowd struct {
	expected []string   // all that are subscribed
	acked    []keys.Ack // of those
	missing  []string   // waited for
	skipped  []string   // not waited for: absent or blocked
}

// satisfied reports whether a rotation need not wait any longer.
func (c crowd) satisfied(a keys.Acks) bool {
	return a.Satisfied(len(c.acked), len(c.acked)+len(c.missing))
}

// crowd reads who is subscribed to the key of r and who has acknowledged its
// new version. Those who have unsubscribed do not count; those who are
// blocked, or were not seen for longer than the plan says, are not waited
// for. An acknowledgement counts however long ago its agent was seen.
func (e *Engine) crowd(ctx context.Context, r *keys.Rotation, now time.Time) (crowd, error) {
	var c crowd
	subs, err := e.store.Subscriptions(ctx, r.Key, "")
	if err != nil || len(subs) == 0 {
		return c, err
	}
	acks, err := e.store.Acks(ctx, r.Key, r.To, "")
	if err != nil {
		return c, err
	}
	acked := make(map[string]keys.Ack, len(acks))
	for _, a := range acks {
		acked[a.Principal] = a
	}
	names, err := e.store.Blocked(ctx)
	if err != nil {
		return c, err
	}
	blocked := make(map[string]bool, len(names))
	for _, name := range names {
		blocked[name] = true
	}
	for _, s := range subs {
		c.expected = append(c.expected, s.Principal)
		a, ok := acked[s.Principal]
		if blocked[s.Principal] {
			c.skipped = append(c.skipped, s.Principal)
			continue
		}
		if ok {
			c.acked = append(c.acked, a)
			continue
		}
		seen, err := e.lastSeen(ctx, s)
		if err != nil {
			return crowd{}, err
		}
		if now.Sub(seen) > r.Acks.Absence() {
			c.skipped = append(c.skipped, s.Principal)
		} else {
			c.missing = append(c.missing, s.Principal)
		}
	}
	return c, nil
}

// lastSeen returns when a subscriber was last heard of; to subscribe is to be
// heard of.
func (e *Engine) lastSeen(ctx context.Context, s keys.Subscription) (time.Time, error) {
	a, err := e.store.Agent(ctx, keys.AgentID(s.Principal))
	switch {
	case errors.Is(err, keys.ErrNotFound):
		return s.Since, nil
	case err != nil:
		return time.Time{}, err
	case a.LastSeen.After(s.Since):
		return a.LastSeen, nil
	}
	return s.Since, nil
}
