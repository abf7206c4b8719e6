package workers

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"keyhole/keys"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type resource struct{ id int64 }

// newPool numbers its resources as they are first used.
func newPool(t *testing.T, workers, queue int, wait time.Duration) *Pool[resource] {
	t.Helper()
	p := New(Config[resource]{Workers: workers, Queue: queue, Wait: wait, Expected: wait, Release: func(*resource) {}})
	t.Cleanup(func() {
		if err := p.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return p
}

// hold occupies n workers until release is called.
func hold(t *testing.T, p *Pool[resource], n int) (release func()) {
	t.Helper()
	stop := make(chan struct{})
	var in, out sync.WaitGroup
	in.Add(n)
	for range n {
		out.Go(func() {
			if _, err := p.Do(context.Background(), keys.LaneNormal, func(*resource) ([]byte, error) { in.Done(); <-stop; return nil, nil }); err != nil {
				t.Error(err)
			}
		})
	}
	in.Wait()
	return func() { close(stop); out.Wait() }
}

func TestResults(t *testing.T) {
	t.Parallel()
	p := newPool(t, 4, 64, time.Minute)
	boom := errors.New("boom")
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			out, err := p.Do(t.Context(), keys.LaneNormal, func(*resource) ([]byte, error) {
				if i%3 == 0 {
					return nil, boom
				}
				return []byte{byte(i)}, nil
			})
			switch {
			case errors.Is(err, ErrBusy): // 200 callers, 68 places
			case i%3 == 0 && err != boom, i%3 != 0 && (err != nil || len(out) != 1 || out[0] != byte(i)):
				t.Errorf("%d: %v, %v", i, out, err)
			}
		})
	}
	wg.Wait()
}

func TestOneOwnerAndFewResources(t *testing.T) {
	t.Parallel()
	p := newPool(t, 8, 64, time.Minute)
	var made, using atomic.Int64
	use := func(r *resource) ([]byte, error) {
		if r.id == 0 {
			r.id = made.Add(1)
		}
		if n := using.Add(1); n > 8 {
			t.Errorf("%d at a time", n)
		}
		using.Add(-1)
		return nil, nil
	}
	for range 100 { // one after the other
		if _, err := p.Do(t.Context(), keys.LaneNormal, use); err != nil {
			t.Fatal(err)
		}
	}
	// The one worker may not yet be idle when its result arrives.
	if n := made.Load(); n > 2 {
		t.Errorf("%d resources for one caller", n)
	}
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			for range 50 {
				if _, err := p.Do(t.Context(), keys.LaneNormal, use); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if n := made.Load(); n > 8 {
		t.Errorf("%d resources of 8", n)
	}
}

func TestQueueIsBoundedAndWaitsNoLongerThanItMay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, 1, 2, time.Second)
		release := hold(t, p, 1)
		never := func(*resource) ([]byte, error) { t.Error("it ran"); return nil, nil }
		var wg sync.WaitGroup
		begun := time.Now()
		for range 2 {
			wg.Go(func() {
				if _, err := p.Do(context.Background(), keys.LaneNormal, never); !errors.Is(err, ErrBusy) || time.Since(begun) != time.Second {
					t.Errorf("queued: %v after %v", err, time.Since(begun))
				}
			})
		}
		synctest.Wait()
		if _, err := p.Do(context.Background(), keys.LaneNormal, never); !errors.Is(err, ErrBusy) || time.Since(begun) != 0 {
			t.Errorf("a full queue: %v after %v", err, time.Since(begun))
		}
		wg.Wait()
		release()
		if _, err := p.Do(context.Background(), keys.LaneNormal, func(*resource) ([]byte, error) { return nil, nil }); err != nil {
			t.Errorf("afterwards: %v", err)
		}
	})
}

// Behind a busy worker waits what has its turn sooner than another worker
// wakes up, but not for long if that turns out otherwise.
func TestShortJobsDoNotWakeWorkers(t *testing.T) {
	for _, tt := range []struct {
		name  string
		usual time.Duration
		waits []time.Duration // of jobs that find one worker busy
	}{
		{"long", time.Millisecond, []time.Duration{0, 0}},
		{"not so short", 120 * time.Microsecond, []time.Duration{patience, 0}},
		{"short", 10 * time.Microsecond, []time.Duration{patience, patience}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPool(t, 3, 8, time.Second)
				for range 100 {
					if _, err := p.Do(t.Context(), keys.LaneNormal, func(*resource) ([]byte, error) { time.Sleep(tt.usual); return nil, nil }); err != nil {
						t.Fatal(err)
					}
				}
				synctest.Wait() // the worker is idle
				release := hold(t, p, 1)
				begun := time.Now()
				var wg sync.WaitGroup
				for _, want := range tt.waits {
					wg.Go(func() {
						_, err := p.Do(t.Context(), keys.LaneNormal, func(*resource) ([]byte, error) {
							if waited := time.Since(begun); waited != want {
								t.Errorf("waited %v, want %v", waited, want)
							}
							time.Sleep(2 * patience)
							return nil, nil
						})
						if err != nil {
							t.Error(err)
						}
					})
					synctest.Wait()
				}
				wg.Wait()
				release()
			})
		})
	}
}

func TestCallersLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, 1, 2, time.Minute)
		stop := make(chan struct{})
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_, err := p.Do(ctx, keys.LaneNormal, func(*resource) ([]byte, error) { <-stop; return nil, nil })
		if !errors.Is(err, ErrLeft) {
			t.Errorf("while it ran: %v", err)
		}
		ctx2, cancel2 := context.WithTimeout(context.Background(), time.Second)
		defer cancel2()
		if _, err := p.Do(ctx2, keys.LaneNormal, func(*resource) ([]byte, error) { t.Error("it ran"); return nil, nil }); !errors.Is(err, ErrBusy) {
			t.Errorf("while it waited: %v", err)
		}
		if busy, over := p.Load(time.Now(), 500*time.Millisecond); busy != 1 || over != 1 {
			t.Errorf("load %d, %d over", busy, over)
		}
		if busy, over := p.Load(time.Now(), time.Hour); busy != 1 || over != 0 {
			t.Errorf("load %d, %d over", busy, over)
		}
		closing, cancel3 := context.WithTimeout(context.Background(), time.Second)
		defer cancel3()
		if err := p.Close(closing); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("closing over a job that hangs: %v", err)
		}
		if _, err := p.Do(context.Background(), keys.LaneNormal, func(*resource) ([]byte, error) { return nil, nil }); !errors.Is(err, ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
		close(stop)
	})
}

func TestEachIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, 4, 4, time.Minute)
		hold(t, p, 4)()
		release := hold(t, p, 1)
		synctest.Wait()
		var n atomic.Int64
		p.EachIdle(context.Background(), func(*resource) { n.Add(1) })
		if n.Load() != 3 {
			t.Errorf("ran on %d idle workers of 3", n.Load())
		}
		release()
		synctest.Wait()
		stop := make(chan struct{})
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		p.EachIdle(ctx, func(*resource) { <-stop }) // it leaves
		close(stop)
	})
}

func TestCloseFinishesAndReleases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var released atomic.Int64
		p := New(Config[resource]{Workers: 2, Queue: 8, Wait: time.Hour, Expected: time.Hour, Release: func(*resource) { released.Add(1) }})
		var done atomic.Int64
		var wg sync.WaitGroup
		for range 6 {
			wg.Go(func() {
				if _, err := p.Do(context.Background(), keys.LaneNormal, func(*resource) ([]byte, error) {
					time.Sleep(time.Second)
					done.Add(1)
					return nil, nil
				}); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		if err := p.Close(context.Background()); err != nil {
			t.Error(err)
		}
		wg.Wait()
		if done.Load() != 6 || released.Load() != 2 {
			t.Errorf("%d jobs done of 6, %d resources released of 2", done.Load(), released.Load())
		}
	})
}

// TestWithoutResource: of four workers one has its resource, which is all that
// there is. It gets the jobs whenever it is idle.
func TestWithoutResource(t *testing.T) {
	t.Parallel()
	none := errors.New("none left")
	p := New(Config[resource]{
		Workers: 4, Queue: 16, Wait: time.Minute, Expected: time.Minute, Release: func(*resource) {},
		Without: func(err error) bool { return errors.Is(err, none) },
	})
	t.Cleanup(func() {
		if err := p.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	job := func(r *resource) ([]byte, error) {
		if r.id == 0 {
			return nil, none
		}
		return nil, nil
	}
	release := hold(t, p, 4) // all of them exist
	release()
	if _, err := p.Do(t.Context(), keys.LaneNormal, func(r *resource) ([]byte, error) { r.id = 1; return nil, nil }); err != nil {
		t.Fatal(err)
	}
	// Those that have none find out one after the other, while the one that
	// has is held.
	for range 3 {
		busy := make(chan struct{})
		var wg sync.WaitGroup
		for held := false; !held; {
			in := make(chan int64)
			wg.Go(func() {
				_, err := p.Do(context.Background(), keys.LaneNormal, func(r *resource) ([]byte, error) {
					in <- r.id
					if r.id == 0 {
						return nil, none
					}
					<-busy
					return nil, nil
				})
				if err != nil && !errors.Is(err, none) {
					t.Error(err)
				}
			})
			held = <-in == 1
		}
		if _, err := p.Do(t.Context(), keys.LaneNormal, job); !errors.Is(err, none) {
			t.Errorf("the one that has its resource is held, and yet: %v", err)
		}
		close(busy)
		wg.Wait()
	}
	for range 100 {
		if _, err := p.Do(t.Context(), keys.LaneNormal, job); err != nil {
			t.Fatalf("the one that has its resource is idle, and another one got the job: %v", err)
		}
	}
}
