package secure

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/sluice-mq/sluice/test/harness"
)

// trio are three nodes joined over TLS, on a Kafka cluster called k: the first one has all roles, the others move messages.
type trio struct {
	*site
	nodes [3]*harness.Node
}

// join starts the nodes. proof is how they prove themselves to each other: "certificate" (node names in their
// certificates) or "token" (of kind node, with certificates that are for servers only).
func join(t *testing.T, proof, bootstrap string) *trio {
	t.Helper()
	ca := newAuthority(t, "own CA")
	flags := func(name string) []string {
		p := ca.issue(forServer)
		if proof == "certificate" {
			p = ca.issue(forBoth, "sluice://node/"+name)
		}
		cert, key := ca.files(p)
		return []string{"--node", name, "--tls-cert", cert, "--tls-key", key, "--tls-ca", ca.file}
	}
	ctx := within(t, time.Minute)
	s := setUp(t, ca, append(flags("a"), "--set", "embedded.enabled=false")...)
	token := func(name string) string {
		return strings.TrimSpace(s.administrate(ctx, "", "token", "create", "--node", name, "-q").Out)
	}
	if proof == "token" {
		// The node that holds the control plane asks its neighbours too, so it needs a token of its own.
		s.Setenv("SLUICE_CFG_CONTROL_TOKEN=" + token("a"))
		if code := s.Stop(); code != 0 {
			t.Fatalf("exit %d", code)
		}
		s.Start()
	}
	tr := &trio{site: s, nodes: [3]*harness.Node{s.Node}}
	for i, name := range []string{"b", "c"} {
		n := harness.New(t, append(flags(name), "--role", "producer,consumer", "--control", s.GRPC)...)
		if proof == "token" {
			n.Setenv("SLUICE_CFG_CONTROL_TOKEN=" + token(name))
		}
		n.Start()
		tr.nodes[i+1] = n
	}
	s.administrate(ctx, "", "cluster", "add", "k", "--kind", "kafka", "--bootstrap", bootstrap)
	return tr
}

func TestNodesJoinedOverTLSShareAGroup(t *testing.T) {
	t.Parallel()
	bootstrap := harness.Require(t, "kafka", "SLUICE_TEST_KAFKA")
	for _, proof := range []string{"certificate", "token"} {
		t.Run(proof, func(t *testing.T) {
			t.Parallel()
			tr := join(t, proof, bootstrap)
			ctx := within(t, 2*time.Minute)
			app := tr.app(ctx, "billing")
			tr.publishHereConsumeThere(t, ctx, app)
			tr.pullAndSettleAnywhere(t, ctx, app)
		})
	}
}

func (tr *trio) publishHereConsumeThere(t *testing.T, ctx context.Context, app string) {
	t.Helper()
	const count = 3000
	topic := unique("tls")
	tr.administrate(ctx, "", "topic", "create", topic, "--cluster", "k", "--partitions", "6")
	tr.spread(t, ctx, tr.nodes[1:]...)
	stored := harness.Decode[harness.Stored](t, tr.nodes[1].Must(ctx, lines(count), tr.reach(app, "pub", topic, "-o", "json")...).Lines())
	got := harness.Decode[harness.Message](t, tr.nodes[2].Must(ctx, "", tr.reach(app, "sub", topic, "--group", topic, "--count", fmt.Sprint(count), "--timeout", "30s", "-o", "json")...).Lines())
	if n := len(harness.ByStatus(stored, "stored")); n != count {
		t.Errorf("%d of %d are stored", n, count)
	}
	c := harness.Count(harness.ByStatus(stored, "stored"), nil, harness.IDs(got))
	t.Logf("published on b, consumed through c: %s", c)
	// The group is new and its lanes move between the nodes that join it one after the other: some may come again.
	c.NoneLost(t)
}

var groupLag = regexp.MustCompile(`"lag":"?(\d+)`)

// pullAndSettleAnywhere has a topic of one partition, so one node owns the lane: whatever works at all three of them is
// passed on by two, pulls and receipts alike.
func (tr *trio) pullAndSettleAnywhere(t *testing.T, ctx context.Context, app string) {
	t.Helper()
	const each = 100
	topic := unique("one")
	tr.administrate(ctx, "", "topic", "create", topic, "--cluster", "k", "--partitions", "1")
	tr.spread(t, ctx, tr.nodes[1:]...)
	stored := harness.Decode[harness.Stored](t, tr.nodes[0].Must(ctx, lines(3*each), tr.reach(app, "pub", topic, "-o", "json")...).Lines())
	// The first pull makes the group; a lane that moves while the nodes join would repeat what was leased.
	tr.awaitOneOwner(t, ctx, app, topic)
	var delivered []string
	for i, at := range tr.nodes {
		ackAt := tr.nodes[(i+1)%len(tr.nodes)]
		got := tr.drain(t, ctx, at.HTTP, app, topic, topic, each, ackAt.HTTP)
		t.Logf("pulled %d at %s, settled at %s", len(got), at.Name, ackAt.Name)
		delivered = append(delivered, got...)
	}
	harness.Count(harness.ByStatus(stored, "stored"), nil, delivered).Exactly(t)
	waitUntil(t, ctx, "what was settled is committed", func() bool {
		m := groupLag.FindAllStringSubmatch(tr.as(ctx, tr.admin, "", "group", "describe", topic, "--lag", "-o", "json").Out, -1)
		return len(m) > 0 && m[len(m)-1][1] == "0"
	})
}

// awaitOneOwner makes the group by a first pull and waits until its one lane has an owner: one node serves one partition.
func (tr *trio) awaitOneOwner(t *testing.T, ctx context.Context, app, topic string) {
	t.Helper()
	waitUntil(t, ctx, "the lane has an owner", func() bool {
		a := tr.post(t, tr.nodes[0].HTTP, "/v1/groups/"+topic+"/pull", app, fmt.Sprintf(`{"topics":[%q],"max_messages":1,"wait":"1s","client":"probe"}`, topic), http.StatusOK)
		for _, m := range a.Messages {
			tr.post(t, tr.nodes[0].HTTP, "/v1/groups/"+topic+"/ack", app, fmt.Sprintf(`{"acks":[{"receipt":%q,"action":"return"}]}`, m.Receipt), http.StatusOK)
		}
		return len(a.Messages) > 0
	})
	waitUntil(t, ctx, "one node is the group's member", func() bool {
		var g struct {
			State   string
			Members []struct{ ID string }
		}
		out := tr.as(ctx, tr.admin, "", "group", "describe", topic, "-o", "json").Out
		return json.Unmarshal([]byte(out), &g) == nil && strings.EqualFold(g.State, "stable") && len(g.Members) == 1
	})
}
