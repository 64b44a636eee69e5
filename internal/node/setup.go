package node

import (
	"context"
	"encoding/json/v2"
	"net/http"

	"github.com/sluice-mq/sluice/internal/fault"
	"github.com/sluice-mq/sluice/internal/rpc"
)

// maxSetupBody bounds the request that redeems the link.
const maxSetupBody = 4 << 10

// offerSetup makes the one-time link where no administrator exists. Under --dev nobody needs one.
func (n *Node) offerSetup(ctx context.Context) error {
	if n.control == nil || n.cfg.Dev {
		return nil
	}
	scheme := "http://"
	if n.cfg.TLS.Enabled() {
		scheme = "https://"
	}
	host := n.advertised(n.server.HTTPAddr())
	link, err := n.control.OfferSetup(ctx, n.folder.path("setup-link"), func(secret string) string {
		// Behind the #, so that it reaches no log of a server or a proxy.
		return scheme + host + "/setup#" + secret
	})
	if err != nil {
		return err
	}
	n.setupLink = link
	return nil
}

// SetupLink is the one-time link that makes the first administrator; empty where there is one. It is to be shown once.
func (n *Node) SetupLink() string { return n.setupLink.Reveal() }

const setupPage = `Sluice is not set up yet.

Redeem the link of this page, the part behind the # included, on the command line:

    sluice setup 'LINK'

or: curl -d '{"secret":"PART BEHIND THE #"}' -H 'Content-Type: application/json' THIS_HOST/v1/setup
`

// handleSetup adds the page of the set-up link and the call that redeems it.
func (n *Node) handleSetup() {
	n.server.Handle(http.MethodGet, "/setup", rpc.Public, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = w.Write([]byte(setupPage)) // the client went away
	}))
	n.server.Handle(http.MethodPost, "/v1/setup", rpc.Public, http.HandlerFunc(n.redeem))
}

func (n *Node) redeem(w http.ResponseWriter, r *http.Request) {
	body, err := rpc.ReadBody(w, r, maxSetupBody)
	if err != nil {
		n.server.WriteError(w, err)
		return
	}
	var req struct {
		Secret string `json:"secret"`
	}
	if err := json.Unmarshal(body, &req, json.RejectUnknownMembers(true)); err != nil {
		n.server.WriteError(w, fault.New(fault.InvalidArgument, "the body is not {\"secret\":\"...\"}"))
		return
	}
	token, err := n.control.Setup(r.Context(), req.Secret)
	if err != nil {
		n.server.WriteError(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_ = json.MarshalWrite(w, map[string]string{"token": token.Reveal()}) // the client went away: the next start offers no new link, an administrator exists
}
