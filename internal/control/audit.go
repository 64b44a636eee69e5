package control

import (
	"encoding/json"
	"fmt"

	"github.com/sluice-mq/sluice/internal/auth"
	"github.com/sluice-mq/sluice/internal/snapshot"
)

// actor names a caller in the audit.
func actor(who auth.Who) string {
	switch {
	case who.Node != "":
		return "node " + who.Node
	case who.Admin:
		return "admin"
	case who.App != "":
		return "app " + who.App
	case who.Anonymous:
		return "anonymous"
	default:
		return "system"
	}
}

// shown is the text of a value in the audit: JSON, without secrets and hashes.
func shown(v any) string {
	switch x := v.(type) {
	case nil:
		return ""
	case *snapshot.Cluster:
		if x == nil {
			return ""
		}
		v = struct {
			Kind                            string
			Bootstrap                       []string
			Datacenter, Side                string
			SASLMechanism, SASLUser         string
			TLS, HasPassword, HasKey, HasCA bool
			TLSServerName                   string
			Version                         uint64
		}{
			string(x.Kind), x.Bootstrap, x.Datacenter, x.Side, x.SASLMechanism, x.SASLUser,
			x.TLS, len(x.SealedPassword) > 0, len(x.SealedKey) > 0, len(x.TLSCA) > 0, x.TLSServerName, x.Version,
		}
	case *snapshot.Token:
		v = struct{ ID, App, Kind string }{x.ID, x.App, x.Kind}
	case *snapshot.Topic:
		if x == nil {
			return ""
		}
	case *snapshot.Group:
		if x == nil {
			return ""
		}
	}
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprintf("%T", v)
	}
	return string(b)
}
