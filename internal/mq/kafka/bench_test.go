package kafka

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/sluice-mq/sluice/internal/mq"
)

// BenchmarkProduce compares the driver with bare franz-go (acks=all, no linger): records of 1 KiB, batches of 1, 10 and
// 100 by many callers at once; cpu-µs/msg is what this process takes for one record.
func BenchmarkProduce(b *testing.B) {
	addrs := realKafka(b)
	d := openClosed(b, Config{Bootstrap: addrs})
	topic := mq.Topic("kafka-bench-" + suffix())
	if err := d.Admin().CreateTopic(b.Context(), mq.TopicSpec{Name: topic, Partitions: 6}); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = d.Admin().DeleteTopic(context.Background(), topic) })
	body := make([]byte, 1024)
	for i := range body {
		body[i] = byte(i * 7)
	}
	for _, size := range []int{1, 10, 100} {
		calls := 2000 / size // in flight
		b.Run(fmt.Sprintf("driver/%d", size), func(b *testing.B) {
			perMessage(b, size, calls, func(i int, done func(error)) {
				rs := make([]mq.Record, size)
				for j := range rs {
					rs[j].Body = body
				}
				d.Producer().Produce(b.Context(), mq.PartitionID{Topic: topic, Index: int32(i % 6)}, rs, func(rs []mq.Result) { done(rs[0].Err) })
			})
		})
		b.Run(fmt.Sprintf("kgo/%d", size), func(b *testing.B) {
			cl, err := kgo.NewClient(kgo.SeedBrokers(addrs...), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(0),
				kgo.ProducerBatchCompression(kgo.NoCompression()))
			if err != nil {
				b.Fatal(err)
			}
			defer cl.Close()
			perMessage(b, size, calls, func(i int, done func(error)) {
				var left atomic.Int32
				left.Store(int32(size))
				for range size {
					r := &kgo.Record{Topic: string(topic), Partition: int32(i % 6), Value: body}
					cl.Produce(b.Context(), r, func(_ *kgo.Record, err error) {
						if left.Add(-1) == 0 {
							done(err)
						}
					})
				}
			})
		})
	}
}

func perMessage(b *testing.B, size, inFlight int, call func(i int, done func(error))) {
	b.ReportAllocs()
	slots := make(chan struct{}, inFlight)
	var wg sync.WaitGroup
	before := cpu()
	b.ResetTimer()
	for i := range b.N {
		slots <- struct{}{}
		wg.Add(1)
		call(i, func(err error) {
			if err != nil {
				b.Error(err)
			}
			<-slots
			wg.Done()
		})
	}
	wg.Wait()
	b.StopTimer()
	msgs := float64(b.N * size)
	b.ReportMetric(float64((cpu()-before).Microseconds())/msgs, "cpu-µs/msg")
	b.ReportMetric(msgs/b.Elapsed().Seconds(), "msg/s")
}

func cpu() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u) // cannot fail for SELF
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
