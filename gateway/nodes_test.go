package gateway_test

import (
	"testing"
	"time"

	"keyhole/audit"
	"keyhole/gateway"
	"keyhole/gateway/api"
	"keyhole/keys"
	"keyhole/store"
)

// beat has a gateway heard that serves a revision.
func (w *world) beat(n keys.Node, lapse time.Duration) {
	w.t.Helper()
	if err := w.store.Beat(w.t.Context(), n, lapse); err != nil {
		w.t.Fatal(err)
	}
}

func TestNodes(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *gateway.Config, _ *store.CacheConfig) { c.Instance = "i-b" })
	ctx := t.Context()
	if list := of(w.Nodes(ctx, admin)).ok(t); list.Nodes == nil || len(list.Nodes) != 0 {
		t.Errorf("%+v", list)
	}
	w.key("payments", keys.ES256)
	_, revision, err := w.store.Load(ctx)
	if err != nil {
		t.Fatal(err)
	}
	w.beat(keys.Node{Instance: "i-b", Name: "b", Version: "v2", Revision: revision}, time.Hour)
	w.beat(keys.Node{Instance: "i-a", Name: "a", Version: "v1", Revision: revision - 2}, time.Microsecond)
	w.beat(keys.Node{Instance: "i-c", Name: "c", Version: "v2", Revision: revision + 7}, time.Hour)
	w.news()
	list := of(w.Nodes(ctx, admin)).ok(t)
	if r := w.record(); r.Action != "list-nodes" || r.Outcome != audit.OutcomeOK {
		t.Errorf("recorded as %+v", r)
	}
	if list.Revision != revision || len(list.Nodes) != 3 {
		t.Fatalf("%+v, at revision %d", list, revision)
	}
	a, b, c := list.Nodes[0], list.Nodes[1], list.Nodes[2]
	if a.StoppedAt.IsZero() || a.StoppedAt.Before(a.SeenAt.Time) || a.SeenAt.IsZero() || a.StartedAt.IsZero() || !c.StoppedAt.IsZero() {
		t.Errorf("the times are %+v, %+v", a, c)
	}
	for _, n := range []*api.Node{&a, &b, &c} {
		n.StartedAt, n.SeenAt, n.StoppedAt = api.Time{}, api.Time{}, api.Time{}
	}
	if want := (api.Node{Name: "a", Instance: "i-a", Version: "v1", Revision: revision - 2, Behind: 2}); a != want {
		t.Errorf("%+v, want %+v", a, want)
	}
	if want := (api.Node{Name: "b", Instance: "i-b", Version: "v2", Revision: revision, Live: true, Self: true}); b != want {
		t.Errorf("%+v, want %+v", b, want)
	}
	if want := (api.Node{Name: "c", Instance: "i-c", Version: "v2", Revision: revision + 7, Live: true}); c != want {
		t.Errorf("%+v, want %+v", c, want)
	}
	if err := w.store.Leave(ctx, "i-c"); err != nil {
		t.Fatal(err)
	}
	if list := of(w.Nodes(ctx, admin)).ok(t); len(list.Nodes) != 2 {
		t.Errorf("after one left: %+v", list)
	}
	w.news()
	for _, who := range []gateway.Request{alice, nobody, auditor} {
		of(w.Nodes(ctx, who)).fails(t, keys.ErrForbidden)
		if r := w.record(); r.Action != "list-nodes" || r.Outcome != audit.OutcomeDenied {
			t.Errorf("recorded as %+v", r)
		}
	}
	if err := w.store.Close(); err != nil {
		t.Fatal(err)
	}
	of(w.Nodes(ctx, admin)).fails(t, keys.ErrStore)
}
