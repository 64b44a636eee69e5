package main

import (
	"context"
	"net"
	"os"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/sluice-mq/sluice/internal/bench"
	"github.com/sluice-mq/sluice/sdk/go/sluicev1"
)

// TestMeasuringThroughTheRelayAndDirect runs every measurement of package bench
// through the relay and straight against the broker.
func TestMeasuringThroughTheRelayAndDirect(t *testing.T) {
	t.Parallel()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(3, "bench"), kfake.SeedTopics(3, "latency"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- serve(ctx, lis, cluster.ListenAddrs()) }()
	t.Cleanup(func() {
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	dial := func() (*grpc.ClientConn, error) {
		return grpc.NewClient(lis.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	}
	for name, way := range map[string]struct {
		dial   bench.Dialer
		direct []string
	}{"relay": {dial: dial}, "direct": {direct: cluster.ListenAddrs()}} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			const n = 2050 // not a multiple of the batch
			res, err := bench.Publish(ctx, bench.PublishConfig{
				Dial: way.dial, Direct: way.direct, Topic: "bench", Messages: n, Size: 100, Batch: 100, Producers: 2, Keys: 10, ServerCPU: bench.ProcessCPU(os.Getpid()),
			})
			check(t, "publish", res, err, n)
			if res.ServerCPU == nil || res.ClientCPU == nil || *res.ClientCPU <= 0 {
				t.Errorf("CPU of client %v and server %v", res.ClientCPU, res.ServerCPU)
			}
			res, err = bench.Consume(ctx, bench.ConsumeConfig{
				Dial: way.dial, Direct: way.direct, Topic: "bench", Group: "g-" + name, Messages: n, Order: sluicev1.Order_ORDER_NONE, Consumers: 1, InFlight: 300,
			})
			check(t, "consume", res, err, n)
			const rate, took = 200, time.Second
			res, err = bench.Latency(ctx, bench.LatencyConfig{Dial: way.dial, Direct: way.direct, Topic: "latency", Rate: rate, Duration: took})
			check(t, "latency", res, err, rate)
			if res.PublishP99 <= 0 {
				t.Error("no latency of publishing")
			}
		})
	}
}

func check(t *testing.T, what string, res bench.Result, err error, n int64) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	if res.Messages < n || res.Errors != 0 || res.PerSec <= 0 || res.P50 <= 0 || res.P99 < res.P50 || res.P999 < res.P99 {
		t.Errorf("%s: %+v", what, res)
	}
	t.Logf("%s: %.0f a second, p50 %.3f ms, p99 %.3f ms", what, res.PerSec, res.P50, res.P99)
}

// The paced run goes at its pace.
func TestPacedPublish(t *testing.T) {
	t.Parallel()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "bench"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	res, err := bench.Publish(t.Context(), bench.PublishConfig{Direct: cluster.ListenAddrs(), Topic: "bench", Messages: 500, Batch: 10, Rate: 1000})
	if err != nil || res.Seconds < 0.45 {
		t.Errorf("500 messages at 1,000 a second took %.3f s (%v)", res.Seconds, err)
	}
}
