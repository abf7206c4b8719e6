package usage_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"keyhole/keys"
	"keyhole/store"
	"keyhole/store/postgrestest"
	"keyhole/usage"
)

// TestPostgresComesBack: two gateways count on while PostgreSQL is killed,
// and while it stands still, and when it is back everything is in it.
func TestPostgresComesBack(t *testing.T) {
	t.Parallel()
	server := postgrestest.Start(t, postgrestest.Options{})
	d := server.Database(t)
	s, err := store.OpenPostgres(t.Context(), store.PostgresConfig{
		URL: d.URL, Password: func() ([]byte, error) { return os.ReadFile(d.PasswordFile) }, Timeout: 30 * time.Second,
	}, seal)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	ctx, stop := context.WithCancel(t.Context())
	counting, end := context.WithCancel(t.Context())
	defer end()
	var meters []*usage.Meter
	var runs, callers sync.WaitGroup
	counted := make([]atomic.Uint64, 2)
	for i := range counted {
		m := usage.New(usage.Config{Store: s, Node: fmt.Sprint("node ", i), Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler)})
		if err := m.Load(ctx); err != nil {
			t.Fatal(err)
		}
		meters = append(meters, m)
		runs.Go(func() {
			if err := m.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		callers.Go(func() {
			for n := 0; counting.Err() == nil; n++ {
				if err := m.Count(t.Context(), "payments", 1, fmt.Sprint("app ", n/50_000), keys.UseApply, 1); err != nil {
					t.Error(err)
					return
				}
				counted[i].Add(1)
			}
		})
	}
	outage := func(is bool) {
		t.Helper()
		for i, m := range meters {
			eventually(t, fmt.Sprint("an outage is ", is), func() bool { return m.Outage() == is || t.Failed() })
			before := counted[i].Load()
			eventually(t, "it counts on", func() bool { return counted[i].Load() > before+100 || t.Failed() })
		}
	}
	for i := range counted {
		eventually(t, "both count", func() bool { return counted[i].Load() > 1000 || t.Failed() })
	}
	server.Crash(t)
	outage(true)
	server.Start(t)
	outage(false)
	server.Pause(t)
	outage(true)
	server.Resume(t)
	outage(false)
	end()
	callers.Wait()
	stop()
	runs.Wait()
	all, err := s.Usage(t.Context(), "payments", "")
	if err != nil {
		t.Fatal(err)
	}
	var got uint64
	for _, u := range all {
		got += u.Applied
	}
	if want := counted[0].Load() + counted[1].Load(); got != want {
		t.Errorf("%d uses were acknowledged, %d are stored", want, got)
	}
}
