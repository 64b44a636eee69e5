package e2e

import (
	"context"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sluice-mq/sluice/test/harness"
)

// secured is a node that was set up, with its administrator's token.
func secured(t *testing.T) (n *harness.Node, link, admin string) {
	t.Helper()
	n = harness.Start(t)
	link = n.SetupLink()
	r := n.Must(within(t, time.Minute), "", "setup", link, "-q")
	return n, link, strings.TrimSpace(r.Out)
}

func TestNothingAnswersBeforeTheSetup(t *testing.T) {
	t.Parallel()
	n := harness.Start(t)
	for _, path := range []string{"/metrics", "/v1/openapi.json", "/v1/nodes", "/v1/nothing"} {
		if status, text := get(t, n, path, ""); status != http.StatusUnauthorized {
			t.Errorf("GET %s: %d %s", path, status, text)
		}
	}
	for _, path := range []string{"/v1/topics/web/messages", "/v1/groups/g/pull", "/v1/groups/g/ack"} {
		if status, text := post(t, n, path, "", `{}`); status != http.StatusUnauthorized {
			t.Errorf("POST %s: %d %s", path, status, text)
		}
	}
	for _, path := range []string{"/healthz/live", "/healthz/ready", "/setup", "/"} {
		if status, text := get(t, n, path, ""); status != http.StatusOK {
			t.Errorf("GET %s: %d %s", path, status, text)
		}
	}
	ctx := within(t, time.Minute)
	for _, args := range [][]string{{"topic", "list"}, {"token", "list"}, {"pub", "demo", "x", "--timeout", "5s"}, {"sub", "demo", "--group", "g", "--timeout", "2s"}, {"token", "create", "--admin"}} {
		if r := n.Run(ctx, "", args...); r.Code != 1 || !strings.Contains(strings.ToLower(r.Err), "token") && !strings.Contains(strings.ToLower(r.Err), "credential") {
			t.Errorf("%v: exit %d, %s", args, r.Code, r.Err)
		}
	}
	if r := n.Run(ctx, "", "setup", "wrong-secret"); r.Code != 1 {
		t.Errorf("a wrong secret: exit %d, %s", r.Code, r.Out)
	}
}

func TestSetupLinkWorksOnce(t *testing.T) {
	t.Parallel()
	n, link, admin := secured(t)
	ctx := within(t, 2*time.Minute)
	if r := n.Run(ctx, "", "setup", link); r.Code != 1 || strings.TrimSpace(r.Out) != "" {
		t.Errorf("second use: exit %d, %s %s", r.Code, r.Out, r.Err)
	}
	if r := n.Run(ctx, "", "topic", "list", "--token", admin); r.Code != 0 {
		t.Errorf("administrator: exit %d, %s", r.Code, r.Err)
	}
	// Neither the secret nor the token lies about: not in the log, not in any file.
	_, secret, _ := strings.Cut(link, "#")
	if strings.Contains(n.Output(), admin) {
		t.Error("the token is in the log")
	}
	err := filepath.WalkDir(n.Dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if strings.Contains(string(b), secret) || strings.Contains(string(b), admin) {
			t.Errorf("%s holds a secret in the clear", path)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	n.Stop()
	n.Start()
	if strings.Count(n.Output(), "/setup#") != 1 {
		t.Error("a node that is set up printed another link")
	}
	if r := n.Run(ctx, "", "topic", "list", "--token", admin); r.Code != 0 {
		t.Errorf("administrator after a restart: exit %d, %s", r.Code, r.Err)
	}
}

func TestTokensOfAppsWorkUntilTheyAreRevoked(t *testing.T) {
	t.Parallel()
	n, _, admin := secured(t)
	ctx := within(t, 2*time.Minute)
	n.Must(ctx, "", "topic", "create", "orders", "--partitions", "4", "--token", admin, "-q")
	app := strings.TrimSpace(n.Must(ctx, "", "token", "create", "billing", "--token", admin, "-q").Out)
	n.Must(ctx, numbers(1, 100), "pub", "orders", "--token", app)
	if r := n.Run(ctx, "x\n", "pub", "unknown", "--token", app, "--timeout", "5s", "-o", "json"); r.Code != 1 || !strings.Contains(r.Out, "topic_not_found") {
		t.Errorf("without --dev a topic was made at its first use: exit %d, %s %s", r.Code, r.Out, r.Err)
	}
	if r := n.Run(ctx, "", "token", "list", "--token", app); r.Code != 1 {
		t.Errorf("an app may administrate: %s", r.Out)
	}
	if status, text := get(t, n, "/metrics", admin); status != http.StatusOK {
		t.Errorf("metrics for the administrator: %d %s", status, text)
	}

	// A stream that is open when the token is revoked ends within seconds.
	subCtx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	ended := make(chan harness.Result, 1)
	go func() { ended <- n.Run(subCtx, "", "sub", "orders", "--group", "g", "--token", app, "-o", "json") }()
	waitUntil(t, ctx, "something is consumed", func() bool {
		r := n.Run(ctx, "", "group", "describe", "g", "--lag", "--token", admin, "-o", "json")
		return committedOffset.MatchString(r.Out)
	})
	var id string
	for _, l := range harness.Decode[[]struct{ ID, Kind, App string }](t, n.Must(ctx, "", "token", "list", "--token", admin, "-o", "json").Lines()) {
		for _, k := range l {
			if k.App == "billing" {
				id = k.ID
			}
		}
	}
	n.Must(ctx, "", "token", "revoke", id, "--token", admin)
	revoked := time.Now()
	r := <-ended
	if r.Code != 1 || time.Since(revoked) > 15*time.Second {
		t.Errorf("the stream ended %v after the revocation with exit %d: %s", time.Since(revoked).Round(time.Second), r.Code, r.Err)
	}
	if r := n.Run(ctx, "x\n", "pub", "orders", "--token", app, "--timeout", "5s"); r.Code != 1 {
		t.Error("a revoked token publishes")
	}
}
