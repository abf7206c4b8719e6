package store

import (
	"context"
	"errors"
	"sync"
	"time"

	"keyhole/keys"
)

// Run refreshes at once, then each Poll and at each hint of the store, and
// asks the witness while the store is silent, until ctx ends. It logs when
// the store is lost, when no key is used because of that, and when it is
// back, each once. It fails with ErrNameTaken only.
func (c *Cache) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	if c.Blind > 0 && c.Witness != nil {
		wg.Go(func() { c.watch(ctx) })
	}
	t := time.NewTicker(c.Poll)
	defer t.Stop()
	hints := c.store.Hints()
	read := c.Now()
	for {
		err := c.refresh(ctx, true)
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, ErrNameTaken) {
			return err
		}
		if err == nil && c.Now().Sub(read) >= c.Reread {
			if done, err := c.readAll(ctx); err != nil && ctx.Err() == nil {
				c.Log.WarnContext(ctx, "the store could not be read whole, to look for what was altered", "err", err)
			} else if done {
				read = c.Now()
			}
		}
		c.settle(ctx, func() { c.lost = err })
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		case _, open := <-hints:
			if !open {
				hints = nil
			}
		}
	}
}

// readAll compares the view with all that is in the store. What is not
// as it was, with nothing committed since, was altered. It reports false if
// there were commits meanwhile; then nothing is said.
func (c *Cache) readAll(ctx context.Context) (done bool, err error) {
	loading, cancel := context.WithTimeout(ctx, c.MaxStaleness)
	defer cancel()
	all, revision, err := c.store.Load(loading)
	if err != nil {
		return false, err
	}
	select {
	case c.turn <- struct{}{}:
		defer func() { <-c.turn }()
	case <-ctx.Done():
		return false, ctx.Err()
	}
	old := c.view.Load()
	if old == nil || old.revision != revision {
		return false, nil
	}
	var altered []*keys.Key
	here := make(map[string]bool, len(all))
	for _, k := range all {
		here[k.Name] = true
		known, ok := old.stored.byName[k.Name]
		if !ok || k.Damaged != known.Damaged || k.Epoch != known.Epoch && !k.Damaged {
			altered = append(altered, k)
		}
	}
	var gone []string
	for name, k := range old.stored.byName {
		switch {
		case here[name]:
		case k.Damaged && k.Epoch == 0: // it was never one of Keyhole's
			gone = append(gone, name)
		default: // it went without a commit
			altered = append(altered, &keys.Key{Name: name, Damaged: true})
		}
	}
	next := *old
	if err := c.bounded(ctx, func(ctx context.Context) error { return c.readBlocked(ctx, &next) }); err != nil {
		return false, err
	}
	if len(altered) > 0 || len(gone) > 0 {
		next.stored = next.stored.with(altered, gone)
	}
	c.show(ctx, &next)
	return true, nil
}
