package workers

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"keyhole/keys"
)

// refusedAtOnce checks that a job gets no place, without waiting.
func refusedAtOnce(t *testing.T, ctx context.Context, p *Pool[resource], lane keys.Lane) *Busy {
	t.Helper()
	begun := time.Now()
	_, err := p.Do(ctx, lane, func(*resource) ([]byte, error) { t.Error("it ran"); return nil, nil })
	busy, ok := errors.AsType[*Busy](err)
	if !ok || !errors.Is(err, ErrBusy) || time.Since(begun) != 0 {
		t.Errorf("%v after %v", err, time.Since(begun))
		return &Busy{}
	}
	return busy
}

// takes makes the pool know that jobs take d.
func takes(t *testing.T, p *Pool[resource], d time.Duration) {
	t.Helper()
	for range 100 {
		if _, err := p.Do(t.Context(), keys.LaneNormal, func(*resource) ([]byte, error) { time.Sleep(d); return nil, nil }); err != nil {
			t.Fatal(err)
		}
	}
	synctest.Wait()
}

// enqueue has n jobs wait, in order.
func enqueue(t *testing.T, p *Pool[resource], wg *sync.WaitGroup, lane keys.Lane, n int, f func()) {
	t.Helper()
	for range n {
		wg.Go(func() {
			if _, err := p.Do(context.Background(), lane, func(*resource) ([]byte, error) { f(); return nil, nil }); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
	}
}

// Four normal jobs go before each bulk one, and what is alone goes on.
func TestLanes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, 1, 64, time.Minute)
		release := hold(t, p, 1)
		var order strings.Builder
		var wg sync.WaitGroup
		enqueue(t, p, &wg, keys.LaneBulk, 6, func() { order.WriteByte('b') })
		enqueue(t, p, &wg, keys.LaneNormal, 10, func() { order.WriteByte('n') })
		if normal, bulk := p.Queued(); normal != 10 || bulk != 6 {
			t.Errorf("%d and %d wait", normal, bulk)
		}
		release()
		wg.Wait()
		if got := order.String(); got != "nnnnbnnnnbnnbbbb" {
			t.Errorf("the order is %s", got)
		}
		if normal, bulk := p.Queued(); normal != 0 || bulk != 0 {
			t.Errorf("%d and %d wait", normal, bulk)
		}
	})
}

// Nobody waits for what cannot be in time.
func TestRefusedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := New(Config[resource]{Workers: 2, Queue: 64, Wait: 10 * time.Second, Expected: time.Second, Release: func(*resource) {}})
		takes(t, p, 100*time.Millisecond)
		release := hold(t, p, 2)
		var wg sync.WaitGroup
		enqueue(t, p, &wg, keys.LaneNormal, 10, func() { time.Sleep(100 * time.Millisecond) })

		// Eleven at 100 ms each, two at a time, and as long itself.
		short, cancel := context.WithTimeout(t.Context(), 640*time.Millisecond)
		defer cancel()
		if busy := refusedAtOnce(t, short, p, keys.LaneNormal); busy.For < 500*time.Millisecond || busy.For > 600*time.Millisecond {
			t.Errorf("for %v", busy.For)
		}
		// Four normal ones at most go before a bulk one.
		bulk, cancel1 := context.WithTimeout(t.Context(), 340*time.Millisecond)
		defer cancel1()
		refusedAtOnce(t, bulk, p, keys.LaneBulk)
		enough, cancel2 := context.WithTimeout(t.Context(), 660*time.Millisecond)
		defer cancel2()
		wg.Go(func() { _, _ = p.Do(enough, keys.LaneNormal, func(*resource) ([]byte, error) { return nil, nil }) })
		synctest.Wait()

		enqueue(t, p, &wg, keys.LaneNormal, 9, func() { time.Sleep(100 * time.Millisecond) })
		if busy := refusedAtOnce(t, t.Context(), p, keys.LaneNormal); busy.For < time.Second {
			t.Errorf("for %v", busy.For)
		}
		enqueue(t, p, &wg, keys.LaneBulk, 10, func() {}) // they may wait for longer
		release()
		wg.Wait()
		if err := p.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
}

// However slow a token is, one job for each of its workers may wait.
func TestSlowTokensHaveAQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := New(Config[resource]{Workers: 2, Queue: 64, Wait: 10 * time.Second, Expected: 100 * time.Millisecond, Release: func(*resource) {}})
		takes(t, p, time.Second)
		var wg sync.WaitGroup
		enqueue(t, p, &wg, keys.LaneNormal, 4, func() { time.Sleep(time.Second) })
		refusedAtOnce(t, t.Context(), p, keys.LaneNormal)
		wg.Wait()
		if err := p.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
}

// When nothing moves any more the queue stops growing; when it does again,
// jobs are taken again.
func TestStandstill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := New(Config[resource]{Workers: 2, Queue: 64, Wait: 10 * time.Second, Expected: 500 * time.Millisecond, Release: func(*resource) {}})
		takes(t, p, time.Millisecond)
		release := hold(t, p, 2)
		var wg sync.WaitGroup
		enqueue(t, p, &wg, keys.LaneNormal, 2, func() {})
		time.Sleep(900 * time.Millisecond)
		enqueue(t, p, &wg, keys.LaneNormal, 2, func() {})
		time.Sleep(200 * time.Millisecond)
		refusedAtOnce(t, t.Context(), p, keys.LaneNormal)
		release()
		wg.Wait()
		enqueue(t, p, &wg, keys.LaneNormal, 4, func() {})
		wg.Wait()
		if err := p.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
}

// Whoever has left takes nobody's place.
func TestLeftPlacesAreFree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, 1, 8, time.Minute)
		release := hold(t, p, 1)
		for range 3 {
			ctx, cancel := context.WithCancel(t.Context())
			var gone, stay sync.WaitGroup
			var done []int
			for i := range 8 {
				if i == 5 {
					enqueue(t, p, &stay, keys.LaneNormal, 1, func() { done = append(done, i) })
					continue
				}
				gone.Go(func() {
					if _, err := p.Do(ctx, keys.LaneNormal, func(*resource) ([]byte, error) { t.Error("it ran"); return nil, nil }); !errors.Is(err, ErrBusy) {
						t.Error(err)
					}
				})
				synctest.Wait()
			}
			refusedAtOnce(t, t.Context(), p, keys.LaneNormal)
			cancel()
			gone.Wait()
			if normal, _ := p.Queued(); normal != 1 {
				t.Errorf("%d wait", normal)
			}
			enqueue(t, p, &stay, keys.LaneNormal, 7, func() { done = append(done, 8) })
			refusedAtOnce(t, t.Context(), p, keys.LaneNormal)
			release()
			stay.Wait()
			if !slices.Equal(done, []int{5, 8, 8, 8, 8, 8, 8, 8}) {
				t.Errorf("done: %v", done)
			}
			synctest.Wait()
			release = hold(t, p, 1)
		}
		release()
	})
}
