package kafka

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/sluice-mq/sluice/internal/mq"
)

// fakeTopic is the topic of fake clusters, with three partitions.
const fakeTopic = mq.Topic("orders")

var first = mq.PartitionID{Topic: fakeTopic}

// startFake is kfake with fakeTopic.
func startFake(t testing.TB, opts ...kfake.Opt) *kfake.Cluster {
	t.Helper()
	c, err := kfake.NewCluster(append([]kfake.Opt{kfake.NumBrokers(1), kfake.SeedTopics(3, string(fakeTopic))}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// openClosed is openDriver with a clean-up.
func openClosed(t testing.TB, cfg Config) *Driver {
	t.Helper()
	d := openDriver(t, cfg)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		_ = d.Close(ctx) // a test may have left writes without an outcome
	})
	return d
}

func texts(bodies ...string) []mq.Record {
	rs := make([]mq.Record, len(bodies))
	for i, b := range bodies {
		rs[i] = mq.Record{Body: []byte(b)}
	}
	return rs
}

// produce waits for the results.
func produce(ctx context.Context, t testing.TB, d *Driver, p mq.PartitionID, records ...mq.Record) []mq.Result {
	t.Helper()
	got := make(chan []mq.Result, 2)
	d.Producer().Produce(ctx, p, records, func(rs []mq.Result) { got <- rs })
	select {
	case rs := <-got:
		return rs
	case <-time.After(20 * time.Second):
		t.Fatal("no results within 20 s")
		return nil
	}
}

// scan reads a partition natively, whatever its records are.
func scan(t testing.TB, addrs []string, p mq.PartitionID) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	cl, err := kgo.NewClient(kgo.SeedBrokers(addrs...), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{
		string(p.Topic): {p.Index: kgo.NewOffset().AtStart()},
	}), kgo.FetchMaxWait(200*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	var got []string
	for {
		fs := cl.PollFetches(ctx)
		if err := fs.Err0(); err != nil {
			t.Fatal(err)
		}
		fs.EachRecord(func(r *kgo.Record) { got = append(got, string(r.Value)) })
		over := false
		fs.EachPartition(func(fp kgo.FetchTopicPartition) {
			at := int64(0)
			if n := len(fp.Records); n > 0 {
				at = fp.Records[n-1].Offset + 1
			}
			over = at >= fp.HighWatermark || fp.HighWatermark == int64(len(got))
		})
		if over {
			return got
		}
	}
}

// eventually polls.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	end := time.Now().Add(15 * time.Second)
	for !ok() {
		if time.Now().After(end) {
			t.Fatalf("%s: not within 15 s", what)
		}
		time.Sleep(5 * time.Millisecond) // polls with a deadline
	}
}

func counted(t testing.TB, c prometheus.Metric) float64 {
	t.Helper()
	var m dto.Metric
	if err := c.Write(&m); err != nil {
		t.Fatal(err)
	}
	return m.GetCounter().GetValue()
}

// link is the network of a driver, which a test breaks.
type link struct {
	// losing: the next answer to a produce request is lost with its connection.
	losing atomic.Int32
	mu     sync.Mutex
	hold   chan struct{} // dialling waits for it; nil: does not
}

func (l *link) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	l.mu.Lock()
	hold := l.hold
	l.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	c, err := (&net.Dialer{}).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return &linkConn{Conn: c, l: l}, nil
}

func (l *link) setHold(c chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.hold = c
}

type linkConn struct {
	net.Conn
	l       *link
	produce atomic.Bool
}

func (c *linkConn) Write(b []byte) (int, error) {
	if len(b) > 6 && binary.BigEndian.Uint16(b[4:]) == 0 {
		c.produce.Store(true)
	}
	return c.Conn.Write(b)
}

func (c *linkConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err == nil && c.produce.Load() && c.l.losing.Load() > 0 {
		c.l.losing.Add(-1)
		c.Close()
		return 0, errors.New("the answer is lost")
	}
	return n, err
}
