package data

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/sluice-mq/sluice/internal/auth"
	"github.com/sluice-mq/sluice/internal/consume"
	"github.com/sluice-mq/sluice/internal/fault"
	"github.com/sluice-mq/sluice/internal/rpc"
	"github.com/sluice-mq/sluice/internal/snapshot"
	"github.com/sluice-mq/sluice/sdk/go/sluicev1"
)

func pullRequest(client string) *sluicev1.PullRequest {
	return &sluicev1.PullRequest{Subscription: &sluicev1.Subscription{Group: "g", Topics: []string{"orders"}}, MaxMessages: 10, Client: client}
}

func TestNamedPullsShareASession(t *testing.T) {
	t.Parallel()
	b := start(t, func(_ *rpc.Config, c *Config, _ *Deps) { c.SessionIdle = 20 * time.Millisecond })
	client := sluicev1.NewConsumerServiceClient(b.conn())
	for range 3 {
		if _, err := client.Pull(asApp(t.Context()), pullRequest("c1")); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the idle session ends", func() bool { return b.consumer.session(0).state() == "closed(false)" })
	if b.consumer.session(1) != nil && b.consumer.session(2) != nil {
		t.Error("a session a call")
	}
	b.consumer.add(message(0, 1))
	req := pullRequest("")
	req.Acks = []*sluicev1.Ack{{Receipt: []byte("forged"), Action: sluicev1.Action_ACTION_ACCEPT}}
	resp, err := client.Pull(asApp(t.Context()), req)
	if err != nil || len(resp.GetMessages()) != 1 || resp.GetAckResults()[0].GetError().GetReason() != sluicev1.Reason_REASON_RECEIPT_INVALID {
		t.Errorf("a bad ack blocked the pull: %v, %v", resp, err)
	}
}

func TestPullAnswerIsBounded(t *testing.T) {
	t.Parallel()
	b := start(t)
	for i := range 10 {
		b.consumer.add(message(i, 1<<20))
	}
	resp, err := sluicev1.NewConsumerServiceClient(b.conn()).Pull(asApp(t.Context()), pullRequest(""))
	if err != nil {
		t.Fatal(err)
	}
	if n := len(resp.GetMessages()); n != 2 && n != 3 {
		t.Errorf("%d messages of 1 MiB", n)
	}
	if queued, leased := b.consumer.counts(); leased != len(resp.GetMessages()) || queued+leased != 10 {
		t.Errorf("%d queued, %d leased", queued, leased)
	}
}

// neighbours is a RemotePuller over other fake nodes.
type neighbours struct {
	mu    sync.Mutex
	nodes map[string]func(context.Context, *sluicev1.PullRequest) (*sluicev1.PullResponse, error)
	calls int
}

func (n *neighbours) Pull(ctx context.Context, node, app string, req *sluicev1.PullRequest) (*sluicev1.PullResponse, error) {
	n.mu.Lock()
	n.calls++
	f := n.nodes[node]
	n.mu.Unlock()
	if app != "shop" {
		return nil, fmt.Errorf("app %q", app)
	}
	return f(ctx, req)
}

func TestPullAsksAllNodesAndGivesLateMessagesBack(t *testing.T) {
	t.Parallel()
	hold := make(chan struct{})
	var b *bundle
	far := &neighbours{nodes: map[string]func(context.Context, *sluicev1.PullRequest) (*sluicev1.PullResponse, error){
		"dead": func(ctx context.Context, _ *sluicev1.PullRequest) (*sluicev1.PullResponse, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		},
		"late": func(_ context.Context, req *sluicev1.PullRequest) (*sluicev1.PullResponse, error) {
			<-hold
			return b.service.PullLocal(context.Background(), auth.Who{App: "shop"}, req) // a lane of the same fake stands for a remote one
		},
		"broken": func(context.Context, *sluicev1.PullRequest) (*sluicev1.PullResponse, error) {
			return nil, errors.New("connection refused")
		},
	}}
	b = start(t, func(_ *rpc.Config, _ *Config, d *Deps) { d.Remote = far })
	b.consumer.nodes = []*snapshot.Node{{Name: "n1"}, {Name: "dead"}, {Name: "late"}, {Name: "broken"}}
	for i := range 20 {
		b.consumer.add(message(i, 1))
	}
	req := pullRequest("")
	req.WaitMs = 5_000
	began := time.Now()
	resp, err := b.service.Pull(rpc.WithWho(t.Context(), auth.Who{App: "shop"}), req)
	if err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("a dead node held the pull for %s", took)
	}
	if n := len(resp.GetMessages()); n != 4 { // 10 over 4 nodes: 2 each, this one has the rest
		t.Errorf("%d messages", n)
	}
	close(hold)
	eventually(t, "late messages are back", func() bool {
		b.consumer.mu.Lock()
		defer b.consumer.mu.Unlock()
		return b.consumer.settled["r-4"] == consume.Return && b.consumer.settled["r-5"] == consume.Return && len(b.consumer.leased) == 4
	})
	if queued, leased := b.consumer.counts(); queued != 16 || leased != 4 {
		t.Errorf("%d queued, %d leased", queued, leased)
	}
}

func TestPullFailsOnlyWhenEveryNodeDoes(t *testing.T) {
	t.Parallel()
	far := &neighbours{nodes: map[string]func(context.Context, *sluicev1.PullRequest) (*sluicev1.PullResponse, error){
		"broken": func(context.Context, *sluicev1.PullRequest) (*sluicev1.PullResponse, error) {
			return nil, fault.New(fault.Unavailable, "gone")
		},
		"empty": func(context.Context, *sluicev1.PullRequest) (*sluicev1.PullResponse, error) {
			return &sluicev1.PullResponse{}, nil
		},
		"full": func(_ context.Context, req *sluicev1.PullRequest) (*sluicev1.PullResponse, error) {
			return &sluicev1.PullResponse{Messages: []*sluicev1.Delivery{{Id: fmt.Sprint(req.GetMaxMessages())}}}, nil
		},
	}}
	b := start(t, func(_ *rpc.Config, _ *Config, d *Deps) { d.Remote = far })
	ctx := rpc.WithWho(t.Context(), auth.Who{App: "shop"})
	for nodes, want := range map[[2]string]string{{"broken", "broken"}: "unavailable", {"broken", "empty"}: "", {"broken", "full"}: "5"} {
		b.consumer.nodes = []*snapshot.Node{{Name: nodes[0]}, {Name: nodes[1]}}
		resp, err := b.service.Pull(ctx, pullRequest(""))
		got := string(fault.ReasonOf(err))
		if len(resp.GetMessages()) > 0 {
			got = resp.GetMessages()[0].GetId()
		}
		if got != want {
			t.Errorf("%v: %q, %v", nodes, got, err)
		}
	}
}

func TestSplitGivesEveryNodeAShare(t *testing.T) {
	t.Parallel()
	for n := 1; n <= 50; n++ {
		for remote := 1; remote < 6; remote++ {
			for _, local := range []bool{false, true} {
				sum := 0
				shares := split(n, remote, local)
				for _, s := range shares {
					if s < 1 {
						t.Fatalf("split(%d, %d, %t) = %v", n, remote, local, shares)
					}
					sum += s
				}
				if sum != max(n, len(shares)) {
					t.Fatalf("split(%d, %d, %t) = %v", n, remote, local, shares)
				}
			}
		}
	}
}

func TestNodesAreTheLiveOnes(t *testing.T) {
	t.Parallel()
	b := start(t)
	resp, err := sluicev1.NewSessionServiceClient(b.conn()).Nodes(asApp(t.Context()), &sluicev1.NodesRequest{})
	if err != nil || len(resp.GetNodes()) != 2 || resp.GetNodes()[0].GetName() != "n1" || resp.GetSnapshotVersion() != 7 {
		t.Errorf("%v, %v", resp, err)
	}
}
