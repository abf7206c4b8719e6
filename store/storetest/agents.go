package storetest

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"keyhole/keys"
	"keyhole/store"
)

func agent(t *testing.T, s store.Store, want keys.Agent) {
	t.Helper()
	got, err := s.Agent(t.Context(), keys.AgentID(want.Principal))
	must(t, err)
	same(t, &want, got)
}

func testAgents(t *testing.T, open func() store.Store) {
	ctx, s := start(t, open)
	at := func(minutes int) time.Time { return t0.Add(time.Duration(minutes) * time.Minute) }
	see := func(all ...store.Sighting) {
		t.Helper()
		must(t, s.SeeAgents(ctx, all))
	}
	see()
	see(store.Sighting{Principal: "bob", At: at(5)}, store.Sighting{Principal: "mtls:spiffe://corp/a b", At: at(1)}, store.Sighting{Principal: "bob", At: at(3)})
	agent(t, s, keys.Agent{Principal: "bob", FirstSeen: at(5), LastSeen: at(5)})
	see(store.Sighting{Principal: "bob", At: at(4)})
	agent(t, s, keys.Agent{Principal: "bob", FirstSeen: at(5), LastSeen: at(5)})
	see(store.Sighting{Principal: "bob", At: at(9)})
	bob := keys.Agent{Principal: "bob", FirstSeen: at(5), LastSeen: at(9)}
	agent(t, s, bob)
	if _, revision := load(t, s); revision != 0 {
		t.Errorf("seeing agents made revision %d", revision)
	}
	for what, sighting := range map[string]store.Sighting{"nobody": {At: t0}, "at no time": {Principal: "eve"}} {
		is(t, what, s.SeeAgents(ctx, []store.Sighting{{Principal: "carol", At: t0}, sighting}), keys.ErrInternal)
	}
	for _, id := range []string{"", "bob", keys.AgentID("carol"), keys.AgentID("Bob")} {
		_, err := s.Agent(ctx, id)
		detailed(t, "an unknown agent", err, keys.ErrNotFound)
	}

	for i := range 5 {
		see(store.Sighting{Principal: fmt.Sprint("c", i), At: at(0)})
	}
	must(t, s.BlockAgent(ctx, "bz", &keys.Block{At: at(1), By: "alice", Reason: "\"ü"}))
	must(t, s.BlockAgent(ctx, "zz", &keys.Block{At: at(2), By: "alice"}))
	want := []string{"bob", "bz", "c0", "c1", "c2", "c3", "c4", "mtls:spiffe://corp/a b", "zz"}
	for _, limit := range []int{0, 1, 2, 3, 100} {
		var got []string
		for f := (store.AgentFilter{Limit: limit}); ; {
			page, err := s.Agents(ctx, f)
			must(t, err)
			if limit > 0 && len(page) > limit {
				t.Errorf("a page of %d has %d", limit, len(page))
			}
			for _, a := range page {
				got = append(got, a.Principal)
				agent(t, s, *a) // one by one they are the same
			}
			if limit == 0 || len(page) == 0 {
				break
			}
			f.After = page[len(page)-1].Principal
		}
		if !slices.Equal(got, want) {
			t.Errorf("by pages of %d: %v, want %v", limit, got, want)
		}
	}
}

func testBlocks(t *testing.T, open func() store.Store) {
	ctx, s := start(t, open)
	blocked := func(want ...string) {
		t.Helper()
		got, err := s.Blocked(ctx)
		must(t, err)
		same(t, want, got)
	}
	revision := uint64(0)
	grows := func() {
		t.Helper()
		_, now := load(t, s)
		if now <= revision {
			t.Errorf("the revision is %d behind %d", now, revision)
		}
		revision = now
	}
	blocked()
	must(t, s.SeeAgents(ctx, []store.Sighting{{Principal: "bob", At: t0}}))
	first, second := &keys.Block{At: t0, By: "alice", Reason: "leaked \x00 token"}, &keys.Block{At: t0.Add(time.Hour), By: "carol"}
	must(t, s.BlockAgent(ctx, "bob", first))
	grows()
	must(t, s.BlockAgent(ctx, "unseen", second))
	grows()
	blocked("bob", "unseen")
	agent(t, s, keys.Agent{Principal: "bob", FirstSeen: t0, LastSeen: t0, Block: first})
	agent(t, s, keys.Agent{Principal: "unseen", Block: second})
	must(t, s.SeeAgents(ctx, []store.Sighting{{Principal: "unseen", At: t0.Add(time.Minute)}})) // it knocked
	agent(t, s, keys.Agent{Principal: "unseen", FirstSeen: t0.Add(time.Minute), LastSeen: t0.Add(time.Minute), Block: second})
	must(t, s.BlockAgent(ctx, "bob", second))
	grows()
	agent(t, s, keys.Agent{Principal: "bob", FirstSeen: t0, LastSeen: t0, Block: second})

	must(t, s.BlockAgent(ctx, "unseen", nil))
	grows()
	blocked("bob")
	agent(t, s, keys.Agent{Principal: "unseen", FirstSeen: t0.Add(time.Minute), LastSeen: t0.Add(time.Minute)})
	must(t, s.BlockAgent(ctx, "unseen", nil)) // once more
	must(t, s.BlockAgent(ctx, "never", second))
	must(t, s.BlockAgent(ctx, "never", nil))
	_, err := s.Agent(ctx, keys.AgentID("never"))
	is(t, "an agent that was only blocked", err, keys.ErrNotFound)
	detailed(t, "unblocking an unknown principal", s.BlockAgent(ctx, "nobody", nil), keys.ErrNotFound)
	for what, err := range map[string]error{
		"no principal": s.BlockAgent(ctx, "", second), "no time": s.BlockAgent(ctx, "x", &keys.Block{}),
		"no text": s.BlockAgent(ctx, "x", &keys.Block{At: t0, Reason: "\xff"}),
	} {
		is(t, what, err, keys.ErrInternal)
	}
	blocked("bob")
	all, err := s.AdoptBlocks(ctx)
	must(t, err)
	same(t, []string{"bob"}, all)
	blocked("bob")
	must(t, s.Close())
	s2 := open()
	defer s2.Close()
	again, err := s2.Blocked(ctx)
	must(t, err)
	same(t, []string{"bob"}, again)
}

// testBlocksAtOnce: no block is lost among others.
func testBlocksAtOnce(t *testing.T, open func() store.Store) {
	ctx, s := start(t, open)
	second := open()
	defer second.Close()
	const workers, each = 4, 8
	together(workers, func(i int) {
		for n := range each {
			s := []store.Store{s, second}[n%2]
			if err := s.BlockAgent(ctx, fmt.Sprintf("%d-%d", i, n), &keys.Block{At: t0, By: "x"}); err != nil {
				t.Errorf("worker %d: %v", i, err)
			}
			if all, err := s.Blocked(ctx); err != nil || len(all) < n+1 {
				t.Errorf("worker %d: %d are blocked, %v", i, len(all), err)
			}
		}
	})
	all, err := s.Blocked(ctx)
	must(t, err)
	if len(all) != workers*each {
		t.Errorf("of %d blocks there are %d", workers*each, len(all))
	}
}

func testSubscriptions(t *testing.T, open func() store.Store) {
	ctx, s := start(t, open)
	create(t, s, NewKey("a", 1), NewKey("b", 1))
	sub := func(key, principal string, minutes int) keys.Subscription {
		return keys.Subscription{Key: key, Principal: principal, Since: t0.Add(time.Duration(minutes) * time.Minute)}
	}
	enter := func(sub, want keys.Subscription) {
		t.Helper()
		got, err := s.Subscribe(ctx, sub)
		must(t, err)
		same(t, want, got)
	}
	check := func(key, principal string, want ...keys.Subscription) {
		t.Helper()
		got, err := s.Subscriptions(ctx, key, principal)
		must(t, err)
		same(t, want, got)
	}
	check("", "")
	enter(sub("b", "bob", 1), sub("b", "bob", 1))
	enter(sub("a", "carol", 2), sub("a", "carol", 2))
	enter(sub("a", "bob", 3), sub("a", "bob", 3))
	enter(sub("a", "bob", 9), sub("a", "bob", 3)) // the first one stays
	check("", "", sub("a", "bob", 3), sub("a", "carol", 2), sub("b", "bob", 1))
	check("a", "", sub("a", "bob", 3), sub("a", "carol", 2))
	check("", "bob", sub("a", "bob", 3), sub("b", "bob", 1))
	check("a", "carol", sub("a", "carol", 2))
	check("b", "carol")
	check("missing", "")
	_, err := s.Subscribe(ctx, sub("missing", "bob", 1))
	detailed(t, "subscribing to a missing key", err, keys.ErrKeyNotFound)
	for what, sub := range map[string]keys.Subscription{"nobody": sub("a", "", 1), "at no time": {Key: "a", Principal: "bob"}} {
		_, err := s.Subscribe(ctx, sub)
		is(t, what, err, keys.ErrInternal)
	}
	must(t, s.Unsubscribe(ctx, "a", "bob"))
	must(t, s.Unsubscribe(ctx, "a", "bob"))
	must(t, s.Unsubscribe(ctx, "missing", "bob"))
	check("", "", sub("a", "carol", 2), sub("b", "bob", 1))
	if _, revision := load(t, s); revision != 2 {
		t.Errorf("subscriptions made revision %d", revision)
	}
}

func testAcks(t *testing.T, open func() store.Store) {
	ctx, s := start(t, open)
	k := NewKey("a", 2)
	k.Versions = append(k.Versions, Reserved(3))
	create(t, s, k, NewKey("b", 1))
	for _, sub := range []keys.Subscription{{Key: "a", Principal: "bob", Since: t0}, {Key: "a", Principal: "carol", Since: t0}, {Key: "b", Principal: "bob", Since: t0}} {
		_, err := s.Subscribe(ctx, sub)
		must(t, err)
	}
	ack := func(key string, version uint32, principal string, minutes int) keys.Ack {
		return keys.Ack{Key: key, Version: version, Principal: principal, At: t0.Add(time.Duration(minutes) * time.Minute)}
	}
	enter := func(a, want keys.Ack) {
		t.Helper()
		got, err := s.Acknowledge(ctx, a)
		must(t, err)
		same(t, want, got)
	}
	check := func(key string, version uint32, principal string, want ...keys.Ack) {
		t.Helper()
		got, err := s.Acks(ctx, key, version, principal)
		must(t, err)
		same(t, want, got)
	}
	check("", 0, "")
	enter(ack("a", 1, "bob", 1), ack("a", 1, "bob", 1))
	enter(ack("a", 2, "carol", 2), ack("a", 2, "carol", 2))
	enter(ack("a", 2, "bob", 3), ack("a", 2, "bob", 3))
	enter(ack("b", 1, "bob", 4), ack("b", 1, "bob", 4))
	enter(ack("a", 2, "bob", 9), ack("a", 2, "bob", 3)) // the first one stays
	check("", 0, "", ack("a", 2, "bob", 3), ack("a", 2, "carol", 2), ack("a", 1, "bob", 1), ack("b", 1, "bob", 4))
	check("a", 2, "", ack("a", 2, "bob", 3), ack("a", 2, "carol", 2))
	check("a", 0, "bob", ack("a", 2, "bob", 3), ack("a", 1, "bob", 1))
	check("", 0, "bob", ack("a", 2, "bob", 3), ack("a", 1, "bob", 1), ack("b", 1, "bob", 4))
	check("a", 3, "")
	check("missing", 0, "")
	for what, tt := range map[string]struct {
		ack  keys.Ack
		want error
	}{
		"a missing key":         {ack("missing", 1, "bob", 1), keys.ErrKeyNotFound},
		"a missing version":     {ack("a", 9, "bob", 1), keys.ErrVersionNotFound},
		"no version":            {ack("a", 0, "bob", 1), keys.ErrVersionNotFound},
		"a version to be made":  {ack("a", 3, "bob", 1), keys.ErrVersionNotFound},
		"without subscription":  {ack("b", 1, "carol", 1), keys.ErrNotSubscribed},
		"by who is not spelled": {ack("a", 1, "BOB", 1), keys.ErrNotSubscribed},
	} {
		_, err := s.Acknowledge(ctx, tt.ack)
		detailed(t, what, err, tt.want)
	}
	for what, a := range map[string]keys.Ack{"nobody": ack("a", 1, "", 1), "at no time": {Key: "a", Version: 1, Principal: "bob"}} {
		_, err := s.Acknowledge(ctx, a)
		is(t, what, err, keys.ErrInternal)
	}
	must(t, s.Unsubscribe(ctx, "a", "bob")) // what was acknowledged stays so
	check("a", 2, "", ack("a", 2, "bob", 3), ack("a", 2, "carol", 2))
	if _, revision := load(t, s); revision != 2 {
		t.Errorf("acknowledgements made revision %d", revision)
	}
}

func testUsage(t *testing.T, open func() store.Store) {
	ctx, s := start(t, open)
	at := func(minutes int) time.Time { return t0.Add(time.Duration(minutes) * time.Minute) }
	use := func(key string, version uint32, principal string, n uint64) keys.Usage {
		return keys.Usage{Key: key, Version: version, Principal: principal, Applied: n, Processed: 2 * n, Bytes: 3 * n, LastUse: at(int(n))}
	}
	check := func(key, node string, want ...keys.Usage) {
		t.Helper()
		got, err := s.Usage(ctx, key, node)
		must(t, err)
		same(t, want, got)
	}
	reserve := func(node string, all ...keys.Usage) {
		t.Helper()
		must(t, s.ReserveUsage(ctx, node, all))
	}
	check("", "")
	reserve("n1")
	reserve("n1", use("a", 2, "bob", 10), use("a", 1, "bob", 7), use("b", 1, "", 1))
	reserve("n2", use("a", 2, "bob", 5), use("a", 2, "carol", 6))
	both := use("a", 2, "bob", 15)
	both.LastUse = at(10)
	check("a", "", use("a", 1, "bob", 7), both, use("a", 2, "carol", 6))
	check("", "", use("a", 1, "bob", 7), both, use("a", 2, "carol", 6), use("b", 1, "", 1))
	check("", "n1", use("a", 1, "bob", 7), use("a", 2, "bob", 10), use("b", 1, "", 1))
	check("a", "n2", use("a", 2, "bob", 5), use("a", 2, "carol", 6))
	check("a", "n3")
	check("missing", "")
	reserve("n1", use("a", 2, "bob", 3)) // given back: what is set is set
	check("a", "n1", use("a", 1, "bob", 7), use("a", 2, "bob", 3))
	never := keys.Usage{Key: "a", Version: 3, Principal: "bob", Applied: 64}
	reserve("n1", never)
	much := keys.Usage{Key: "c", Version: 1, Principal: "bob", Applied: 1<<63 - 1, Bytes: 1<<63 - 1}
	reserve("n1", much)
	reserve("n2", much)
	check("c", "", keys.Usage{Key: "c", Version: 1, Principal: "bob", Applied: 1<<64 - 2, Bytes: 1<<64 - 2})
	for what, err := range map[string]error{
		"no node":    s.ReserveUsage(ctx, "", []keys.Usage{use("a", 9, "bob", 1)}),
		"no key":     s.ReserveUsage(ctx, "n1", []keys.Usage{use("a", 9, "bob", 1), use("", 1, "bob", 1)}),
		"no version": s.ReserveUsage(ctx, "n1", []keys.Usage{use("a", 9, "bob", 1), use("a", 0, "bob", 1)}),
		"too much":   s.ReserveUsage(ctx, "n1", []keys.Usage{use("a", 9, "bob", 1), {Key: "a", Version: 1, Bytes: 1 << 63}}),
	} {
		is(t, what, err, keys.ErrInternal)
	}
	check("a", "n1", use("a", 1, "bob", 7), use("a", 2, "bob", 3), never)
	if _, revision := load(t, s); revision != 0 {
		t.Errorf("usage made revision %d", revision)
	}
	var many []keys.Usage
	for i := range 1000 {
		many = append(many, use("many", uint32(i/100+1), fmt.Sprintf("agent-%02d", i%100), uint64(i)))
	}
	reserve("n1", many...)
	check("many", "", many...)
}

// testBelongings: what belongs to a key goes with it.
func testBelongings(t *testing.T, open func() store.Store) {
	ctx, s := start(t, open)
	create(t, s, NewKey("a", 1), NewKey("b", 1))
	for _, key := range []string{"a", "b"} {
		_, err := s.Subscribe(ctx, keys.Subscription{Key: key, Principal: "bob", Since: t0})
		must(t, err)
		_, err = s.Acknowledge(ctx, keys.Ack{Key: key, Version: 1, Principal: "bob", At: t0})
		must(t, err)
		must(t, s.ReserveUsage(ctx, "n", []keys.Usage{{Key: key, Version: 1, Principal: "bob", Applied: 1}}))
	}
	k := commit(t, s, "a", func(k *keys.Key) { k.Versions[0].DestroyedAt = t0 })
	must(t, s.Commit(ctx, store.Change{Key: k, FromEpoch: k.Epoch, Delete: true, Notices: []keys.Notice{{Type: keys.NoticeKeyDeleted, At: t0, Key: "a"}}}))
	subs, err := s.Subscriptions(ctx, "", "")
	must(t, err)
	acks, err := s.Acks(ctx, "", 0, "")
	must(t, err)
	used, err := s.Usage(ctx, "", "")
	must(t, err)
	if len(subs) != 1 || subs[0].Key != "b" || len(acks) != 1 || acks[0].Key != "b" || len(used) != 1 || used[0].Key != "b" {
		t.Errorf("left are %+v, %+v, %+v", subs, acks, used)
	}
	eventRange(t, s, 1, 1)
}
