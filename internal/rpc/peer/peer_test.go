package peer_test

import (
	"context"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sluice-mq/sluice/gen/nodev1"
	"github.com/sluice-mq/sluice/internal/auth"
	"github.com/sluice-mq/sluice/internal/consume"
	"github.com/sluice-mq/sluice/internal/control"
	"github.com/sluice-mq/sluice/internal/fault"
	"github.com/sluice-mq/sluice/internal/mq"
	"github.com/sluice-mq/sluice/internal/mq/mqtest"
	"github.com/sluice-mq/sluice/internal/peer"
	"github.com/sluice-mq/sluice/internal/rpc"
	rpcpeer "github.com/sluice-mq/sluice/internal/rpc/peer"
	"github.com/sluice-mq/sluice/internal/secret"
	"github.com/sluice-mq/sluice/internal/snapshot"
	"github.com/sluice-mq/sluice/internal/store"
	"github.com/sluice-mq/sluice/sdk/go/sluicev1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var quiet = slog.New(slog.DiscardHandler)

// one is a cluster registry of one cluster.
type one struct{ d mq.Driver }

func (o one) Driver(string) (mq.Driver, error)           { return o.d, nil }
func (o one) Trial(*snapshot.Cluster) (mq.Driver, error) { return o.d, nil }

// controlNode is a control plane behind a real listener.
type controlNode struct {
	svc      *control.Service
	snaps    *snapshot.Holder
	server   *rpc.Server
	addr     string
	fake     *mqtest.Fake
	store    *store.Store
	stopping chan struct{}
	once     sync.Once
}

func startControl(t *testing.T, dir, addr string) *controlNode {
	t.Helper()
	c := &controlNode{snaps: snapshot.NewHolder(nil), fake: mqtest.NewFake(mqtest.FakeConfig{}), stopping: make(chan struct{})}
	var err error
	if c.store, err = store.Open(t.Context(), filepath.Join(dir, "control.db"), time.Now); err != nil {
		t.Fatal(err)
	}
	key, err := secret.LoadOrCreateKey(filepath.Join(dir, "secret.key"), true)
	if err != nil {
		t.Fatal(err)
	}
	box, err := secret.NewBox(key)
	if err != nil {
		t.Fatal(err)
	}
	c.svc, err = control.New(t.Context(), control.Config{AutoCreate: true}, control.Deps{
		Self: snapshot.Node{Name: "c1", GRPC: "127.0.0.1:1", Roles: []string{"control"}}, Embedded: true,
		Store: c.store, Snapshots: c.snaps, Box: box, Clusters: one{c.fake}, Log: quiet,
	})
	if err != nil {
		t.Fatal(err)
	}
	c.server = serve(t, addr, auth.New(false, c.snaps, time.Now), func(s *rpc.Server) error {
		return (&rpcpeer.Control{Service: c.svc, Snapshots: c.snaps, Stopping: c.stopping}).Register(s)
	})
	c.addr = c.server.GRPCAddr()
	t.Cleanup(c.stop)
	return c
}

func (c *controlNode) stop() {
	c.once.Do(func() {
		close(c.stopping)
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		_ = c.server.Stop(ctx)
		_ = c.svc.Close(ctx)
		_ = c.fake.Close(ctx)
		_ = c.store.Close()
	})
}

func serve(t *testing.T, addr string, authn rpc.Authenticator, register func(*rpc.Server) error) *rpc.Server {
	t.Helper()
	cfg := rpc.DefaultConfig()
	cfg.GRPC, cfg.HTTP = addr, "127.0.0.1:0"
	s, err := rpc.New(cfg, rpc.Deps{Auth: authn, Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	if err := register(s); err != nil {
		t.Fatal(err)
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	return s
}

func (c *controlNode) nodeToken(t *testing.T) (id string, dial peer.Dial) {
	t.Helper()
	id, token, err := c.svc.CreateToken(t.Context(), auth.Who{Admin: true}, auth.KindNode, "n2", 0)
	if err != nil {
		t.Fatal(err)
	}
	return id, peer.Dial{Token: token}
}

// worker is a data-plane node's side of it.
type worker struct {
	*peer.Control
	snaps *snapshot.Holder
	quit  func()
}

func startWorker(t *testing.T, dial peer.Dial, snaps *snapshot.Holder, addrs ...string) *worker {
	t.Helper()
	self := func() snapshot.Node {
		return snapshot.Node{Name: "n2", GRPC: "127.0.0.1:2", Roles: []string{"consumer"}}
	}
	c, err := peer.NewControl(dial, addrs, self, snaps, quiet, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); c.Run(ctx) }()
	w := &worker{Control: c, snaps: snaps}
	w.quit = sync.OnceFunc(func() { cancel(); <-done; _ = c.Close() })
	t.Cleanup(w.quit)
	return w
}

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(15 * time.Second)
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatalf("never came true: %s", what)
		}
		time.Sleep(5 * time.Millisecond) // a poll with a deadline
	}
}

func TestJoinAwayAndBack(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c := startControl(t, dir, "127.0.0.1:0")
	_, dial := c.nodeToken(t)
	disk, err := snapshot.NewDisk(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	keep := func(h *snapshot.Holder) func() {
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() { defer close(done); h.Keep(ctx, disk, quiet) }()
		stop := sync.OnceFunc(func() { cancel(); <-done })
		t.Cleanup(stop)
		return stop
	}
	snaps := snapshot.NewHolder(nil)
	kept := keep(snaps)
	// The first address answers nothing: the node finds the second.
	w := startWorker(t, dial, snaps, "127.0.0.1:9", c.addr)
	eventually(t, "joined, and both sides know it", func() bool {
		n := snaps.Current().Nodes["n2"]
		return w.Joined() && n != nil && n.Alive
	})

	// First uses through the control plane: the node knows them when the call returns.
	for _, topic := range []string{"a/b", "50%", "日本"} {
		if err := w.EnsureTopic(t.Context(), topic); err != nil || snaps.Current().Topics[topic] == nil {
			t.Fatalf("topic %q: %v", topic, err)
		}
	}
	if err := w.EnsureSubscription(t.Context(), "g#1", map[string]snapshot.Settings{"a/b": {Order: snapshot.OrderKey}}); err != nil {
		t.Fatal(err)
	}
	if err := w.EnsureSubscription(t.Context(), "g#1", map[string]snapshot.Settings{"a/b": {Order: snapshot.OrderNone}}); fault.ReasonOf(err) != fault.SubscriptionConflict {
		t.Errorf("another order: %v", err)
	}

	// Control goes away: the node works on, new things wait.
	addr := c.addr
	c.stop()
	eventually(t, "the loss is noticed", func() bool { return !w.Joined() })
	if snaps.Current().Groups["g#1"] == nil {
		t.Error("a known group is gone with the control plane")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	if err := w.EnsureTopic(ctx, "new"); fault.ReasonOf(err) != fault.ControlUnavailable {
		t.Errorf("a new topic without control: %v", err)
	}
	cancel()

	// The node restarts meanwhile: it goes on from its disk.
	w.quit()
	kept()
	restored, err := disk.Load()
	if err != nil || restored == nil || restored.Groups["g#1"].Subscriptions["a/b"].Order != snapshot.OrderKey {
		t.Fatalf("from disk: %+v, %v", restored, err)
	}
	snaps = snapshot.NewHolder(nil)
	if err := snaps.Set(restored); err != nil {
		t.Fatal(err)
	}
	w = startWorker(t, dial, snaps, addr)

	// Control comes back at the same address: versions go on.
	before := snaps.Current().Version
	c = startControl(t, dir, addr)
	eventually(t, "joined again with something newer", func() bool { return w.Joined() && snaps.Current().Version > before })

	// Leaving properly is seen at once, long before the silence would be.
	started := time.Now()
	w.quit()
	eventually(t, "the node left", func() bool { return !c.snaps.Current().Nodes["n2"].Alive })
	if took := time.Since(started); took > 2*time.Second {
		t.Errorf("leaving took %v", took)
	}
}

func TestJoinNeedsACredential(t *testing.T) {
	t.Parallel()
	c := startControl(t, t.TempDir(), "127.0.0.1:0")
	id, dial := c.nodeToken(t)
	_, app, err := c.svc.CreateToken(t.Context(), auth.Who{Admin: true}, auth.KindApp, "app", 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []peer.Dial{{}, {Token: app}, {Token: secret.New("slc_node_x")}} {
		w := startWorker(t, d, snapshot.NewHolder(nil), c.addr)
		if err := w.EnsureTopic(t.Context(), "t"); !slices.Contains([]fault.Reason{fault.Unauthenticated, fault.PermissionDenied}, fault.ReasonOf(err)) {
			t.Errorf("a call without a node's credential: %v", err)
		}
		w.quit()
		if len(w.snaps.Current().Clusters) != 0 {
			t.Error("a snapshot went to somebody without a credential")
		}
	}
	w := startWorker(t, dial, snapshot.NewHolder(nil), c.addr)
	eventually(t, "joined", w.Joined)
	if err := c.svc.RevokeToken(t.Context(), auth.Who{Admin: true}, id); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the stream of a revoked node ends", func() bool { return !w.Joined() })
}

func TestAnotherStoresSnapshotIsRefused(t *testing.T) {
	t.Parallel()
	c := startControl(t, t.TempDir(), "127.0.0.1:0")
	_, dial := c.nodeToken(t)
	snaps := snapshot.NewHolder(nil)
	if err := snaps.Set(&snapshot.Snapshot{Version: 1 << 40, StoreID: "another"}); err != nil {
		t.Fatal(err)
	}
	startWorker(t, dial, snaps, c.addr)
	eventually(t, "the node joined", func() bool { return c.snaps.Current().Nodes["n2"] != nil })
	if snaps.Current().StoreID != "another" {
		t.Error("a node changed over to another control store by itself")
	}
}

// owner is a node that owns leases.
type owner struct{ got []consume.Ack }

func (o *owner) SettleOwn(_ context.Context, app, group string, acks []consume.Ack) []*fault.Error {
	o.got = acks
	rs := make([]*fault.Error, len(acks))
	rs[len(acks)-1] = fault.New(fault.Reassigned, "app %s, group %s", app, group)
	return rs
}

func (o *owner) PullOwn(_ context.Context, app string, req *sluicev1.PullRequest) (*sluicev1.PullResponse, error) {
	return &sluicev1.PullResponse{Messages: []*sluicev1.Delivery{{Id: app + "/" + req.GetSubscription().GetGroup()}}}, nil
}

func (o *owner) GroupStatus(_ context.Context, group string) (*nodev1.GroupStatusResponse, error) {
	return &nodev1.GroupStatusResponse{Clients: 3, Lanes: []*nodev1.LaneStatus{{Topic: group, Leased: 2, Committed: 1 << 60}}}, nil
}

func TestNeighbours(t *testing.T) {
	t.Parallel()
	snaps := snapshot.NewHolder(nil)
	o := &owner{}
	server := serve(t, "127.0.0.1:0", auth.New(false, snaps, time.Now), func(s *rpc.Server) error {
		return (&rpcpeer.Neighbour{Settler: o, Puller: o, Statuser: o, Faults: s.Faults()}).Register(s)
	})
	stop := sync.OnceFunc(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		_ = server.Stop(ctx)
	})
	t.Cleanup(stop)
	hash := auth.Hash("node-token")
	err := snaps.Set(&snapshot.Snapshot{
		Version: 1, StoreID: "s", Nodes: map[string]*snapshot.Node{"n2": {Name: "n2", GRPC: server.GRPCAddr()}},
		Tokens: map[[32]byte]*snapshot.Token{hash: {ID: "1", Kind: auth.KindNode, Hash: hash}},
	})
	if err != nil {
		t.Fatal(err)
	}
	pool := peer.NewPool(peer.Dial{Token: secret.New("node-token")}, snaps, nil)
	defer pool.Close()

	acks := []*sluicev1.Ack{{Receipt: []byte("r1"), Action: sluicev1.Action_ACTION_ACCEPT}, {Receipt: []byte("r2"), Action: sluicev1.Action_ACTION_RELEASE, DelayMs: 1500, Cause: "why"}}
	rs := pool.Settle(t.Context(), "n2", "a/b", "50%", acks)
	if rs[0] != nil || rs[1] == nil || rs[1].Reason != fault.Reassigned || rs[1].Text != "app a/b, group 50%" {
		t.Errorf("settle: %v", rs)
	}
	if a := o.got[1]; a.Action != consume.Release || a.Delay != 1500*time.Millisecond || a.Cause != "why" || string(a.Receipt) != "r2" {
		t.Errorf("arrived: %+v", a)
	}
	res, err := pool.Pull(t.Context(), "n2", "app", &sluicev1.PullRequest{Subscription: &sluicev1.Subscription{Group: "g"}})
	if err != nil || res.GetMessages()[0].GetId() != "app/g" {
		t.Errorf("pull: %v, %v", res, err)
	}
	st, err := pool.GroupStatus(t.Context(), "n2", "g")
	if err != nil || st.Clients != 3 || st.Lanes[0].Committed != 1<<60 {
		t.Errorf("status: %+v, %v", st, err)
	}
	for _, r := range pool.Settle(t.Context(), "nobody", "a", "g", acks) {
		if r == nil || r.Reason != fault.Unavailable || r.MaybeSent {
			t.Errorf("an unknown node: %v", r)
		}
	}
	bad := peer.NewPool(peer.Dial{}, snaps, nil)
	defer bad.Close()
	if r := bad.Settle(t.Context(), "n2", "a", "g", acks)[0]; r == nil || r.Reason != fault.Unauthenticated {
		t.Errorf("without a credential: %v", r)
	}
	stop()
	for _, r := range pool.Settle(t.Context(), "n2", "a", "g", acks) {
		if r == nil || r.Reason != fault.Unavailable || !r.MaybeSent {
			t.Errorf("a dead node: %v", r)
		}
	}
}
