package webhook_test

import (
	"database/sql"
	"net/http"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"keyhole/keys"
)

// lapse lets all leases lapse.
func (w *world) lapse() {
	w.t.Helper()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(filepath.Dir(w.dir), "keyhole.db")+"?_pragma=busy_timeout(30000)")
	if err != nil {
		w.t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.ExecContext(w.t.Context(), "UPDATE leases SET until = 0"); err != nil {
		w.t.Fatal(err)
	}
}

// Of several gateways one delivers each event, in order.
func TestSeveralGateways(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := newReceiver(t, nil)
	a, _ := w.start(w.config(r.hook))
	b, _ := w.start(w.config(r.hook))
	const n = 20
	for range n {
		w.notice("hooks", keys.NoticeActivated)
	}
	var last uint64
	for range n {
		g := r.next()
		if g.event.ID <= last {
			t.Errorf("event %d comes after %d", g.event.ID, last)
		}
		last = g.event.ID
	}
	eventually(t, "both know", func() bool { return w.one(a).Pending == 0 && w.one(b).Pending == 0 })
	if len(r.all) != 0 {
		t.Errorf("%d events were delivered twice", len(r.all))
	}
}

// A gateway that stands still on its way does not hold the events up for
// longer than its lease, and takes nothing back when it goes on.
func TestAnotherGatewayGoesOn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var once sync.Once
	arrived, release := make(chan struct{}), make(chan struct{})
	r := newReceiver(t, func(rw http.ResponseWriter, _ got) {
		first := false
		once.Do(func() { first = true })
		if first {
			close(arrived)
			<-release
		}
		rw.WriteHeader(http.StatusNoContent)
	})
	t.Cleanup(func() { close(release) })
	r.hook.Timeout = time.Minute
	_, stop := w.start(w.config(r.hook))
	w.notice("hooks", keys.NoticeActivated)
	w.notice("hooks", keys.NoticeRevoked)
	<-arrived
	first := r.next()
	b, _ := w.start(w.config(r.hook))
	w.lapse()
	if again := r.next(); again.event.ID != first.event.ID || again.delivery() != first.delivery() {
		t.Errorf("event %d comes, want %d again", again.event.ID, first.event.ID)
	}
	if next := r.next(); next.event.ID <= first.event.ID {
		t.Errorf("event %d comes after %d", next.event.ID, first.event.ID)
	}
	eventually(t, "it is well", func() bool { return w.one(b).Pending == 0 })
	stop()
	w.notice("hooks", keys.NoticeSuspended)
	if g := r.next(); g.event.Type != "version.suspended" {
		t.Errorf("%s comes", g.event.Type)
	}
}

// An order to try again works on whatever gateway it is given.
func TestRetryElsewhere(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := newReceiver(t, status(http.StatusGone))
	a, stop := w.start(w.config(r.hook))
	b, _ := w.start(w.config(r.hook))
	w.notice("hooks", keys.NoticeActivated)
	g := r.next()
	eventually(t, "it is dead, on both", func() bool {
		return len(w.one(a).Dead) == 1 && a.Stats()[0].Dead == 1 && b.Stats()[0].Dead == 1
	})
	stop()
	r.answers(nil)
	if _, err := b.Retry(t.Context(), r.hook.Name); err != nil {
		t.Fatal(err)
	}
	if again := r.next(); again.delivery() != g.delivery() {
		t.Errorf("%+v", again.event)
	}
	eventually(t, "nothing is dead", func() bool { return len(w.one(b).Dead) == 0 && b.Stats()[0].Dead == 0 })
}
