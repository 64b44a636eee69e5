package embedded

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/sluice-mq/sluice/internal/mq"
)

func kilobytes(n int) []mq.Record {
	rng := rand.New(rand.NewPCG(1, 2))
	rs := make([]mq.Record, n)
	for i := range rs {
		body := make([]byte, 1024)
		for j := range body {
			body[j] = byte(rng.Uint32()) // nothing that compresses
		}
		rs[i].Body = body
	}
	return rs
}

func BenchmarkProduce(b *testing.B) {
	for _, batch := range []int{1, 10, 100} {
		b.Run(fmt.Sprintf("batch=%d", batch), func(b *testing.B) {
			s := openStore(b, Config{Dir: b.TempDir(), MinFreeBytes: 1})
			createTopic(b, s, "t", 8, nil)
			records := kilobytes(batch)
			const callers = 64
			b.ReportAllocs()
			b.SetBytes(int64(batch) * 1024)
			b.ResetTimer()
			var all sync.WaitGroup
			for c := range callers {
				all.Go(func() {
					done := make(chan []mq.Result, 1)
					p := mq.PartitionID{Topic: "t", Index: int32(c % 8)}
					for i := c; i < b.N; i += callers {
						s.Producer().Produce(context.Background(), p, records, func(rs []mq.Result) { done <- rs })
						if r := (<-done)[0]; r.Err != nil {
							b.Error(r.Err)
							return
						}
					}
				})
			}
			all.Wait()
			b.ReportMetric(float64(b.N*batch)/b.Elapsed().Seconds(), "msgs/s")
		})
	}
}

func BenchmarkFetch(b *testing.B) {
	s := openStore(b, Config{Dir: b.TempDir(), MinFreeBytes: 1})
	createTopic(b, s, "t", 1, nil)
	p := mq.PartitionID{Topic: "t"}
	records := kilobytes(100)
	const total = 50_000
	for range total / len(records) {
		produce(s, p, records...)
	}
	b.ReportAllocs()
	b.ResetTimer()
	offset, n := int64(0), 0
	for b.Loop() {
		got, err := s.Reader().Fetch(context.Background(), p, offset, mq.Limits{MaxBytes: 256 << 10})
		if err != nil {
			b.Fatal(err)
		}
		n += len(got.Records)
		if offset = got.Next; offset == got.HighWatermark {
			offset = 0
		}
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "msgs/s")
}

// BenchmarkOpen opens a store of 1 GB as often as it is asked to, and reports the heap it takes.
func BenchmarkOpen(b *testing.B) {
	dir := b.TempDir()
	s := openStore(b, Config{Dir: dir, MinFreeBytes: 1})
	createTopic(b, s, "t", 16, nil)
	records := kilobytes(1000)
	for i := range 1000 {
		produce(s, mq.PartitionID{Topic: "t", Index: int32(i % 16)}, records...)
	}
	closeStore(b, s)
	b.ResetTimer()
	for b.Loop() {
		start := time.Now()
		s := openStore(b, Config{Dir: dir, MinFreeBytes: 1})
		b.ReportMetric(time.Since(start).Seconds(), "s/open")
		b.StopTimer()
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		b.ReportMetric(float64(m.HeapAlloc)/(1<<20), "MiB-heap")
		b.ReportMetric(float64(s.Stats().LogBytes)/1e9, "GB")
		closeStore(b, s)
		b.StartTimer()
	}
}
