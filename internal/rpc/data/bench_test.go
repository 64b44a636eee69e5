package data

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/sluice-mq/sluice/internal/consume"
	"github.com/sluice-mq/sluice/internal/mq"
	"github.com/sluice-mq/sluice/internal/publish"
	"github.com/sluice-mq/sluice/sdk/go/sluicev1"
)

var batchSizes = []int{1, 10, 100}

// BenchmarkPublishFrame is what this package adds to a frame of a publish stream: engine form in, answer out.
func BenchmarkPublishFrame(b *testing.B) {
	for _, n := range batchSizes {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			req := &sluicev1.PublishRequest{Topic: "orders"}
			results := make([]publish.Result, n)
			for i := range n {
				req.Messages = append(req.Messages, &sluicev1.Message{Id: fmt.Sprint(i), Key: []byte("k"), Body: make([]byte, 1024), Headers: []*sluicev1.Header{{Name: "h", Value: []byte("v")}}})
				results[i] = publish.Result{Status: publish.Stored, Cluster: "c", Partition: fmt.Sprint(i * 3 / n), Offset: int64(i)}
			}
			enc := publishEncoder{}
			b.ReportAllocs()
			for b.Loop() {
				r, _, err := decodePublish(req)
				if err != nil {
					b.Fatal(err)
				}
				enc.encode(results, missingIDs(r.Messages))
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/msg")
		})
	}
}

// BenchmarkDeliveryFrame is what it adds to a frame of deliveries, marshalling included.
func BenchmarkDeliveryFrame(b *testing.B) {
	for _, n := range batchSizes {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			ds := make([]consume.Delivery, n)
			for i := range ds {
				ds[i] = message(i, 1024)
				ds[i].Record.Headers = []mq.Header{{Name: "h", Value: []byte("v")}}
			}
			var buf []byte
			b.ReportAllocs()
			for b.Loop() {
				arena := arenas.Get().(*deliveryArena)
				buf, _ = proto.MarshalOptions{}.MarshalAppend(buf[:0], &sluicev1.Deliveries{Messages: arena.encode(ds)})
				arena.recycle()
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/msg")
		})
	}
}

// BenchmarkPublishJSON is body in, answer out, without HTTP itself.
func BenchmarkPublishJSON(b *testing.B) {
	for _, n := range batchSizes {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			one := `{"key":"k","id":"i","headers":{"h":"v"},"body":"` + strings.Repeat("x", 1024) + `"}`
			body := []byte(`{"messages":[` + strings.TrimSuffix(strings.Repeat(one+",", n), ",") + `]}`)
			results := make([]publish.Result, n)
			for i := range results {
				results[i] = publish.Result{Status: publish.Stored, ID: "i", Cluster: "c", Partition: "1", Offset: 1 << 40}
			}
			s := &Service{}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := decodeMessages(bytes.Clone(body)); err != nil {
					b.Fatal(err)
				}
				s.appendResults(nil, "orders", results)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/msg")
		})
	}
}

// BenchmarkPublishHTTP is the whole way over the loopback, client included, with an engine that costs nothing.
func BenchmarkPublishHTTP(b *testing.B) {
	for _, n := range batchSizes {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			node := start(b)
			one := `{"key":"k","body":"` + strings.Repeat("x", 1024) + `"}`
			body := `{"messages":[` + strings.TrimSuffix(strings.Repeat(one+",", n), ",") + `]}`
			b.ReportAllocs()
			for b.Loop() {
				if code, _, answer := node.post("/v1/topics/orders/messages", body); code != 200 {
					b.Fatal(answer)
				}
				node.publisher.reqs = node.publisher.reqs[:0] // the fake keeps what it gets
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/msg")
		})
	}
}
