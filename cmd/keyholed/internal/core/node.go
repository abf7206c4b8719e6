package core

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"keyhole/cmd/keyholed/internal/config"
	"keyhole/cmd/keyholed/internal/exit"
	"keyhole/keys"
	"keyhole/rotation/lease"
	"keyhole/store"
)

// How a gateway lives with others, and with itself.
const (
	// blind is how long keys are used without a word of revocations, where
	// others may revoke.
	blind = 2 * time.Second

	beatEvery      = time.Second
	beatEveryAlone = 10 * time.Second // where nobody waits for it
	// margin is how much longer a node counts as living than it uses keys
	// without a heartbeat that was kept, beyond the time between two of them.
	margin = 4 * time.Second

	// nameWait is how long a start waits for its name, which is free five
	// seconds after a gateway was killed; joinWait, for a command that was
	// killed while it was alone (lease.TTL).
	nameWait  = 10 * time.Second
	joinWait  = 20 * time.Second
	joinEvery = 500 * time.Millisecond

	aloneWait    = 5 * time.Second // for a gateway that is joining to be seen
	leaveTimeout = 2 * time.Second
)

// aloneInstance is the one process that a SQLite database has, run after run:
// the lock on the file says that the one before is gone, so what it had of
// leases is this one's.
const aloneInstance = "sqlite"

// aloneLease is taken by commands that want no gateway beside them, and by a
// gateway until it can be seen by them.
const aloneLease = "alone"

// ErrGatewaysLive says that a command wants to be alone, and is not.
var ErrGatewaysLive = errors.New("gateways run on this database")

func node(c *config.Config, version string) keys.Node {
	n := keys.Node{Instance: aloneInstance, Name: c.Node, Version: version}
	if c.Store.Shared() {
		n.Instance = keys.NewID(time.Now())
	}
	return n
}

func (k *Core) cacheConfig(o Options) store.CacheConfig {
	s := k.config.Store
	c := store.CacheConfig{MaxStaleness: s.MaxStaleness, Poll: s.Poll, Log: k.log}
	if !o.Serve {
		return c
	}
	c.BeatEvery = beatEveryAlone
	if s.Shared() {
		c.BeatEvery, c.Blind = beatEvery, blind
		if without := unmarked(k.Token.Describe()); len(without) == 0 {
			c.Witness = witness(k.Token)
		} else {
			k.log.Warn("a token keeps no marks of revocations: no key is used when the store was silent for a moment", "tokens", without, "silent", blind)
		}
	}
	lapse := s.MaxStaleness + c.BeatEvery + margin
	c.Beat = func(ctx context.Context, revision uint64) error {
		n := k.Node
		n.Revision = revision
		return k.Store.Beat(ctx, n, lapse)
	}
	return c
}

// join fills the snapshot and keeps the first heartbeat with it.
func (k *Core) join(ctx context.Context) error {
	k.joined = true
	if !k.config.Store.Shared() {
		if err := k.Store.Leave(ctx, k.Node.Instance); err != nil { // of a run that was killed
			return StoreError(err)
		}
		return StoreError(k.Cache.Refresh(ctx))
	}
	began := time.Now()
	for told := false; ; told = true {
		err := k.enter(ctx)
		taken := errors.Is(err, store.ErrNameTaken)
		if waited := time.Since(began); !taken && !errors.Is(err, lease.ErrTaken) || taken && waited > nameWait || waited > joinWait {
			return err
		}
		if !told {
			k.log.WarnContext(ctx, "waiting: another keyholed was seen under this name a moment ago, or wants to be alone with the store", "node", k.Node.Name, "err", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(joinEvery):
		}
	}
}

// enter tries to join once.
func (k *Core) enter(ctx context.Context) error {
	ctx, done, err := k.leases().Try(ctx, aloneLease)
	if errors.Is(err, lease.ErrTaken) {
		return exit.With(exit.Store, "`keyholed adopt` or `keyholed reconcile` runs; start when it has ended", fmt.Errorf("a command is alone with the key database: %w", err))
	}
	if err != nil {
		return StoreError(err)
	}
	defer done()
	err = k.Cache.Refresh(ctx)
	if errors.Is(err, store.ErrNameTaken) {
		return NameTaken(err)
	}
	return StoreError(err)
}

// NameTaken gives store.ErrNameTaken its exit status and what to do.
func NameTaken(err error) error {
	return exit.With(exit.Config, "give each gateway a name of its own (node); the default is the host's name", err)
}

func (k *Core) leases() *lease.Keeper {
	return lease.New(lease.Config{Store: k.Store, Holder: k.Node.Instance, Log: k.log})
}

// beAlone keeps gateways from starting, and fails if there are any.
func (k *Core) beAlone(ctx context.Context) error {
	if !k.config.Store.Shared() {
		return nil
	}
	done, err := k.takeAlone(ctx)
	if err != nil {
		return err
	}
	k.alone = done
	all, _, err := k.Store.Nodes(ctx)
	if err != nil {
		return StoreError(err)
	}
	var live []string
	for _, n := range all {
		if n.Live {
			live = append(live, n.Name)
		}
	}
	if len(live) == 0 {
		return nil
	}
	return exit.With(exit.Store, "stop them first; one that was killed counts as running until it would have stopped using keys by itself (store.max_staleness)",
		fmt.Errorf("%w: %s", ErrGatewaysLive, strings.Join(live, ", ")))
}

// takeAlone takes the lease until done is called. Nothing ends with it: what
// a command writes is decided row by row.
func (k *Core) takeAlone(ctx context.Context) (done func(), err error) {
	keeper := k.leases()
	for deadline := time.Now().Add(aloneWait); ; {
		_, done, err := keeper.Try(context.WithoutCancel(ctx), aloneLease)
		switch {
		case err == nil:
			return done, nil
		case !errors.Is(err, lease.ErrTaken):
			return nil, StoreError(err)
		case time.Now().After(deadline):
			return nil, exit.With(exit.Store, "try again when it has ended", fmt.Errorf("another keyholed is alone with the key database, or starts: %w", err))
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(joinEvery):
		}
	}
}

// leave says that this node uses no key any more.
func (k *Core) leave() {
	if !k.joined {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), leaveTimeout)
	defer cancel()
	if err := k.Store.Leave(ctx, k.Node.Instance); err != nil {
		k.log.WarnContext(ctx, "the other gateways are not told of the end of this one; they find out by themselves", "err", err)
	}
}
