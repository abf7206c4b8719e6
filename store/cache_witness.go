package store

import (
	"context"
	"fmt"
	"time"

	"keyhole/keys"
)

// watch asks the witness while the store is silent, until ctx ends. It does
// not wait for a reading of the store that hangs.
func (c *Cache) watch(ctx context.Context) {
	every := c.Blind / 4
	t := time.NewTimer(0) // the view may be from long before
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		wait := every
		if v := c.view.Load(); v != nil {
			if wait = c.silence - c.Now().Sub(v.at); wait <= 0 {
				began := c.Now()
				c.ask(ctx, began)
				wait = every - c.Now().Sub(began)
			}
		}
		t.Reset(max(wait, time.Millisecond))
	}
}

// ask asks the witness once. What it says is as old as the question.
func (c *Cache) ask(ctx context.Context, at time.Time) {
	asking, cancel := context.WithTimeout(ctx, c.Blind)
	defer cancel()
	marks, err := c.Witness(asking)
	if ctx.Err() != nil {
		return
	}
	if err != nil && asking.Err() != nil {
		err = fmt.Errorf("no answer within %s: %w", c.Blind, err)
	}
	c.settle(ctx, func() {
		if c.unseen = err; err == nil {
			c.hear(ctx, at, marks)
		}
	})
}

// hear takes what the witness said into the view. The caller has mu.
func (c *Cache) hear(ctx context.Context, at time.Time, marks []keys.RevocationMark) {
	old := c.view.Load()
	c.addMarks(ctx, old.stored, marks)
	next := *old
	next.heard = at
	c.replace(ctx, old, &next)
}

// addMarks notes the marks that the store's word lacks. They stay until the
// store says the same: one that has lost a commit, as a standby that took
// over too early, brings no compromised version back. The caller has mu.
func (c *Cache) addMarks(ctx context.Context, stored *Snapshot, marks []keys.RevocationMark) {
	if len(marks) == 0 {
		return
	}
	byID := make(map[keys.ObjectID]keys.RevocationMark, len(marks))
	for _, m := range marks {
		byID[m.ObjectID] = m
	}
	stored.unrevoked(func(k *keys.Key, v *keys.Version) {
		m, ok := byID[v.ObjectID]
		if _, known := c.marked[v.ObjectID]; !ok || known {
			return
		}
		if c.marked == nil {
			c.marked = map[keys.ObjectID]keys.RevocationMark{}
		}
		c.marked[v.ObjectID], c.added = m, true
		c.Log.ErrorContext(ctx, "a version is compromised, as its token tells while the store is silent; it is out of use here", "key", k.Name, "version", v.Number)
	})
}

// withMarks returns s with the marked versions revoked, and forgets the marks
// that s needs no more. The caller has mu.
func (c *Cache) withMarks(s *Snapshot) *Snapshot {
	if len(c.marked) == 0 {
		return s
	}
	needed := map[keys.ObjectID]keys.RevocationMark{}
	s.unrevoked(func(_ *keys.Key, v *keys.Version) {
		if m, ok := c.marked[v.ObjectID]; ok {
			needed[v.ObjectID] = m
		}
	})
	if c.marked = needed; len(needed) == 0 {
		return s
	}
	return s.withRevoked(needed)
}
