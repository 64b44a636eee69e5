package kafka

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluice-mq/sluice/internal/mq"
)

func native(t *testing.T, addrs []string, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(addrs...), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.DefaultProduceTopic(string(fakeTopic))}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

func put(t *testing.T, cl *kgo.Client, body []byte) {
	t.Helper()
	if err := cl.ProduceSync(t.Context(), &kgo.Record{Value: body}).FirstErr(); err != nil {
		t.Fatal(err)
	}
}

// joined is a member that owns all of fakeTopic.
func joined(t *testing.T, d *Driver, name string) (*group, int64) {
	t.Helper()
	mg, err := d.Group(t.Context(), mq.GroupConfig{Group: name, Topics: []mq.Topic{fakeTopic}})
	if err != nil {
		t.Fatal(err)
	}
	for {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		a, err := mg.Next(ctx)
		cancel()
		if err != nil {
			t.Fatal(err)
		}
		if len(a.Owned) == 3 {
			return mg.(*group), a.Epoch
		}
	}
}

type fetchFunc func(ctx context.Context, p mq.PartitionID, offset int64, l mq.Limits) (mq.Batch, error)

// bothWays runs a test through a group and through the reader.
func bothWays(t *testing.T, d *Driver, f func(t *testing.T, fetch fetchFunc)) {
	t.Helper()
	t.Run("group", func(t *testing.T) {
		g, _ := joined(t, d, "g")
		f(t, g.Fetch)
	})
	t.Run("reader", func(t *testing.T) { f(t, d.Reader().Fetch) })
}

func TestABatchThatGrowsTooMuchIsNamed(t *testing.T) {
	t.Parallel()
	c := startFake(t, kfake.BrokerConfigs(map[string]string{"message.max.bytes": "8000000"}))
	plain := native(t, c.ListenAddrs())
	bomb := native(t, c.ListenAddrs(), kgo.ProducerBatchCompression(kgo.GzipCompression()), kgo.ProducerBatchMaxBytes(4<<20))
	put(t, plain, []byte("before"))
	put(t, bomb, bytes.Repeat([]byte{0}, 3<<20))
	put(t, plain, []byte("after"))
	d := openClosed(t, Config{Bootstrap: c.ListenAddrs(), MaxBatch: 1 << 20})
	bothWays(t, d, func(t *testing.T, fetch fetchFunc) {
		b, err := fetch(t.Context(), first, 0, mq.Limits{MaxBytes: 1 << 20, MaxWait: 5 * time.Second})
		if err != nil || len(b.Records) != 1 || b.Next != 1 {
			t.Fatalf("before the bomb: %+v, %v", b, err)
		}
		_, err = fetch(t.Context(), first, 1, mq.Limits{MaxBytes: 1 << 20, MaxWait: 5 * time.Second})
		if !errors.Is(err, mq.TooLarge) {
			t.Fatalf("the bomb: got %v, want class too large", err)
		}
		broken, ok := errors.AsType[*BrokenBatch](err)
		if !ok || broken.From != 1 || broken.Next != 2 {
			t.Fatalf("the bomb's offsets: %+v", broken)
		}
		b, err = fetch(t.Context(), first, broken.Next, mq.Limits{MaxBytes: 1 << 20, MaxWait: 5 * time.Second})
		if err != nil || len(b.Records) != 1 || string(b.Records[0].Body) != "after" {
			t.Fatalf("after the bomb: %+v, %v", b, err)
		}
	})
}

func TestAbortedTransactionsAreNotDelivered(t *testing.T) {
	t.Parallel()
	addrs := realKafka(t)
	d := openClosed(t, Config{Bootstrap: addrs})
	topic := mq.Topic("kafka-aborted-" + suffix())
	if err := d.Admin().CreateTopic(t.Context(), mq.TopicSpec{Name: topic, Partitions: 1}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Admin().DeleteTopic(context.Background(), topic) })
	p := mq.PartitionID{Topic: topic}
	cl := native(t, addrs, kgo.DefaultProduceTopic(string(topic)), kgo.TransactionalID("tx-"+suffix()))
	write := func(body string, commit kgo.TransactionEndTry) {
		if err := cl.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		put(t, cl, []byte(body))
		if err := cl.EndTransaction(t.Context(), commit); err != nil {
			t.Fatal(err)
		}
	}
	write("no", kgo.TryAbort)
	write("yes", kgo.TryCommit)
	write("neither", kgo.TryAbort) // stands at the end: Next has to pass it all the same
	var got []string
	offset := int64(0)
	end := time.Now().Add(20 * time.Second)
	for offset < 6 {
		b, err := d.Reader().Fetch(t.Context(), p, offset, mq.Limits{MaxBytes: 1 << 20, MaxWait: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range b.Records {
			got = append(got, string(r.Body))
		}
		offset = b.Next
		if time.Now().After(end) {
			t.Fatalf("stuck at offset %d", offset)
		}
	}
	if len(got) != 1 || got[0] != "yes" {
		t.Errorf("delivered %q, want only what was committed", got)
	}
}

func TestATopicMadeAnewIsReported(t *testing.T) {
	t.Parallel()
	c := startFake(t)
	cl := native(t, c.ListenAddrs())
	put(t, cl, []byte("old"))
	d := openClosed(t, Config{Bootstrap: c.ListenAddrs()})
	g, _ := joined(t, d, "g")
	if b, err := g.Fetch(t.Context(), first, 0, mq.Limits{MaxWait: 5 * time.Second}); err != nil || b.Next != 1 {
		t.Fatalf("%+v, %v", b, err)
	}
	if err := c.DeleteTopic(string(fakeTopic)); err != nil {
		t.Fatal(err)
	}
	if err := c.CreateTopic(string(fakeTopic), 3, nil); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the reset", func() bool {
		b, err := g.Fetch(t.Context(), first, 1, mq.Limits{MaxWait: time.Second})
		return err == nil && b.Reset != nil && b.Reset.Recreated && b.Next == 0
	})
}

func TestACommitUnderWayHoldsTheRevocationUp(t *testing.T) {
	t.Parallel()
	c := startFake(t)
	d := openClosed(t, Config{Bootstrap: c.ListenAddrs()})
	g, epoch := joined(t, d, "g")
	release, arrived := make(chan struct{}), make(chan struct{})
	var once sync.Once
	c.ControlKey(int16(kmsg.OffsetCommit), func(kmsg.Request) (kmsg.Response, error, bool) {
		c.SleepControl(func() { once.Do(func() { close(arrived) }); <-release })
		return nil, nil, false
	})
	committed := make(chan map[mq.PartitionID]error, 1)
	go func() { committed <- g.Commit(t.Context(), epoch, map[mq.PartitionID]mq.Commit{first: {Offset: 1}}) }()
	<-arrived
	disowned := make(chan struct{})
	go func() { g.disown([]mq.PartitionID{first}); close(disowned) }()
	eventually(t, "the partition is disowned", func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		return g.owned[first] == nil
	})
	if errs := g.Commit(t.Context(), epoch, map[mq.PartitionID]mq.Commit{first: {Offset: 2}}); !errors.Is(errs[first], mq.Fenced) {
		t.Errorf("a commit after the revocation began: got %v, want fenced", errs[first])
	}
	select {
	case <-disowned:
		t.Error("the revocation ended while a commit was under way")
	default:
	}
	close(release)
	<-disowned
	if errs := <-committed; len(errs) > 0 {
		t.Errorf("the commit under way: %v", errs)
	}
}

func TestARefusedCommitDuringARebalanceIsRetried(t *testing.T) {
	t.Parallel()
	c := startFake(t)
	d := openClosed(t, Config{Bootstrap: c.ListenAddrs()})
	g, epoch := joined(t, d, "g")
	for _, code := range []int16{27, -1} { // REBALANCE_IN_PROGRESS, UNKNOWN_SERVER_ERROR
		var n int
		c.ControlKey(int16(kmsg.OffsetCommit), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
			if n++; n > 2 {
				c.DropControl()
				return nil, nil, false
			}
			c.KeepControl()
			req := kreq.(*kmsg.OffsetCommitRequest)
			resp := req.ResponseKind().(*kmsg.OffsetCommitResponse)
			for _, rt := range req.Topics {
				st := kmsg.NewOffsetCommitResponseTopic()
				st.Topic, st.TopicID = rt.Topic, rt.TopicID
				for _, rp := range rt.Partitions {
					sp := kmsg.NewOffsetCommitResponseTopicPartition()
					sp.Partition, sp.ErrorCode = rp.Partition, code
					st.Partitions = append(st.Partitions, sp)
				}
				resp.Topics = append(resp.Topics, st)
			}
			return resp, nil, true
		})
		if errs := g.Commit(t.Context(), epoch, map[mq.PartitionID]mq.Commit{first: {Offset: 3, Map: "m"}}); len(errs) > 0 {
			t.Errorf("code %d: %v", code, errs)
		}
	}
}

func TestSomethingElseThanKafkaIsNamedQuickly(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(http.NotFoundHandler())
	defer srv.Close()
	addr := srv.Listener.Addr().String()
	d := openClosed(t, Config{Bootstrap: []string{addr}})
	start := time.Now()
	_, err := d.Caps(t.Context())
	if err == nil || !strings.Contains(err.Error(), addr) || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("got %v", err)
	}
	if took := time.Since(start); took > 4*time.Second {
		t.Errorf("it took %v", took)
	}
}

func TestAClusterThatMovesIsFoundAgain(t *testing.T) {
	t.Parallel()
	one := startFake(t)
	var mu sync.Mutex
	at := one.ListenAddrs()[0]
	dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
		if strings.HasPrefix(addr, "kafka.test:") { // a name that resolves to where the cluster is
			mu.Lock()
			addr = at
			mu.Unlock()
		}
		return (&net.Dialer{}).DialContext(ctx, network, addr)
	}
	d := openClosed(t, Config{Bootstrap: []string{"kafka.test:9092"}, Dial: dial})
	if rs := produce(t.Context(), t, d, first, texts("a")...); rs[0].Err != nil {
		t.Fatal(rs[0].Err)
	}
	two := startFake(t)
	mu.Lock()
	at = two.ListenAddrs()[0]
	mu.Unlock()
	one.Close()
	eventually(t, "a record is stored at the new place", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		err := produce(ctx, t, d, first, texts("b")...)[0].Err
		if err != nil {
			t.Log(err)
		}
		return err == nil
	})
}

func TestCredentialsAndTLS(t *testing.T) {
	t.Parallel()
	srv := httptest.NewUnstartedServer(nil) // for its certificate
	srv.StartTLS()
	defer srv.Close()
	serverTLS := &tls.Config{Certificates: srv.TLS.Certificates} //nolint:gosec // the default minimum will do
	clientTLS := srv.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	for _, mech := range []string{Plain, ScramSHA256, ScramSHA512} {
		t.Run(mech, func(t *testing.T) {
			t.Parallel()
			c := startFake(t, kfake.EnableSASL(), kfake.Superuser(mech, "ann", "secret"), kfake.TLS(serverTLS))
			cfg := Config{Bootstrap: c.ListenAddrs(), SASL: SASL{mech, "ann", "secret"}, TLS: clientTLS}
			d := openClosed(t, cfg)
			if rs := produce(t.Context(), t, d, first, texts("a")...); rs[0].Err != nil {
				t.Fatal(rs[0].Err)
			}
			cfg.SASL.Password = "wrong"
			wrong := openClosed(t, cfg)
			// kfake ends the connection; brokers answer with a code, and class Auth.
			if _, err := wrong.Caps(t.Context()); err == nil || !strings.Contains(err.Error(), "credentials") {
				t.Errorf("a wrong password: got %v", err)
			}
			cfg.TLS = nil
			plain := openClosed(t, cfg)
			if _, err := plain.Caps(t.Context()); err == nil {
				t.Error("plain text was taken by a TLS port")
			} else {
				t.Log(err)
			}
		})
	}
}
