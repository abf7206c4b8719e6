package usage_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"keyhole/keys"
)

// BenchmarkCount counts by one triple, and by many.
func BenchmarkCount(b *testing.B) {
	for _, principals := range []int{1, 1000} {
		b.Run(fmt.Sprint(principals), func(b *testing.B) {
			k := newKit(b)
			ctx, cancel := context.WithCancel(b.Context())
			ended := make(chan error, 1)
			go func() { ended <- k.Run(ctx) }()
			names := make([]string, principals)
			for i := range names {
				names[i] = fmt.Sprintf("jwt:corp:service-%d", i)
				if err := k.Count(b.Context(), "payments", 1, names[i], keys.UseApply, 10); err != nil {
					b.Fatal(err)
				}
			}
			var next atomic.Int64
			b.ResetTimer()
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for i := int(next.Add(int64(principals / 2))); pb.Next(); i++ {
					if err := k.Count(ctx, "payments", 1, names[i%principals], keys.UseApply, 10); err != nil {
						b.Error(err)
						return
					}
				}
			})
			b.StopTimer()
			cancel()
			if err := <-ended; err != nil {
				b.Error(err)
			}
		})
	}
}

func BenchmarkSeen(b *testing.B) {
	k := newKit(b)
	now := time.Now()
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			k.Seen("jwt:corp:service", now)
		}
	})
}
