package fault

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sluice-mq/sluice/test/harness"
)

// alive are the names of the nodes that the control plane sees.
func alive(t *testing.T, n *harness.Node) map[string]bool {
	t.Helper()
	r := n.Run(within(t, 20*time.Second), "", "node", "list", "-o", "json")
	out := map[string]bool{}
	for _, line := range r.Lines() {
		var nodes []struct {
			Node  struct{ Name string }
			Alive bool
		}
		if json.Unmarshal([]byte(line), &nodes) != nil {
			continue
		}
		for _, v := range nodes {
			if v.Alive {
				out[v.Node.Name] = true
			}
		}
	}
	return out
}

func TestNodesGoOnWithoutControlPlane(t *testing.T) {
	b := kafka(t)
	control := harness.Start(t, "--dev", "--role", "control")
	var data [2]*harness.Node
	for i := range data {
		data[i] = harness.Start(t, "--dev", "--role", "producer,consumer", "--control", control.GRPC)
	}
	control.Must(within(t, 30*time.Second), "", "cluster", "add", "k", "--kind", "kafka", "--bootstrap", b.bootstrap)
	l := newLoad(t, topic(t, control, "static", 6))
	l.consume(servers(data[:]...), l.topic, time.Millisecond)
	l.publish(servers(data[:]...), 4, 25, 200, 10*time.Second)
	l.warm(500)

	control.Kill()
	flows := func(when string) {
		before := l.accepted()
		eventually(t, time.Minute, "messages flow "+when, func() bool { return l.accepted() > before+2000 })
	}
	flows("without the control plane")
	for _, d := range data {
		refusedWithoutControl(t, d, l.topic)
	}

	// A node starts again from what it has on disk, and serves.
	if code := data[0].Stop(); code != 0 {
		t.Errorf("exit %d after SIGTERM, want 0", code)
	}
	data[0].Start()
	flows("after a restart without the control plane")
	l.finish()

	control.Start()
	eventually(t, 30*time.Second, "all nodes are known to the control plane again", func() bool {
		nodes := alive(t, control)
		return nodes[data[0].Name] && nodes[data[1].Name]
	})
	fresh := topic(t, control, "fresh", 1)
	eventually(t, 20*time.Second, "a node takes the new topic", func() bool {
		return data[0].Run(within(t, 20*time.Second), "", "pub", fresh, "hello", "-o", "json").Code == 0
	})
	found := l.drain(b, l.topic)
	l.quit()
	duplicates, _ := l.checkWrites(found)
	l.checkOrder(found)
	t.Log(l.summary())
	t.Logf("%d duplicate writes, %d repeated deliveries, accepts not recorded: %v", duplicates, len(l.repeats()), l.settleErrors())
	if l.stored() != len(l.out) {
		t.Errorf("%d of %d messages were not stored", len(l.out)-l.stored(), len(l.out))
	}
}

// refusedWithoutControl makes a topic and a group, which need the control plane.
func refusedWithoutControl(t *testing.T, n *harness.Node, known string) {
	t.Helper()
	// The client tries until its deadline and then tells the last answer; HTTP answers at once.
	r := n.Run(within(t, 30*time.Second), "", "pub", unique("unknown"), "x", "-o", "json", "--timeout", "2s")
	got := harness.Decode[harness.Stored](t, r.Lines())
	if r.Code == 0 || len(got) != 1 || got[0].Status != "not_sent" || got[0].Error == nil || !strings.Contains(got[0].Error.Message, "control plane") {
		t.Errorf("a new topic without the control plane: exit %d, %s%s", r.Code, r.Out, r.Err)
	}
	if code := refusal(t, n, "/v1/topics/"+unique("unknown")+"/messages", `{"messages":[{"body":"x"}]}`); code != "control_unavailable" {
		t.Errorf("a new topic over HTTP without the control plane: %s, want control_unavailable", code)
	}
	if code := refusal(t, n, "/v1/groups/"+unique("unknown")+"/pull", `{"topics":["`+known+`"],"wait":"1s"}`); code != "control_unavailable" {
		t.Errorf("a new group over HTTP without the control plane: %s, want control_unavailable", code)
	}
}

// refusal is the code of the error, of the request or of its first message, that the node answers with 503.
func refusal(t *testing.T, n *harness.Node, path, body string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(within(t, 20*time.Second), http.MethodPost, "http://"+strings.TrimPrefix(n.HTTP, "http://")+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	type failure struct{ Code string }
	var answer struct {
		Error   failure
		Results []struct{ Error failure }
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("POST %s: %s, want 503", path, resp.Status)
	}
	if len(answer.Results) > 0 {
		return answer.Results[0].Error.Code
	}
	return answer.Error.Code
}
