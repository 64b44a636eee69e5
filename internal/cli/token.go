package cli

import (
	"fmt"
	"io"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sluice-mq/sluice/gen/adminv1"
)

func (a *app) tokenCommand() *cobra.Command {
	return a.noun("token", "Tokens of apps, administrators and nodes", a.tokenCreate(), a.tokenList(), a.tokenRevoke())
}

func (a *app) tokenCreate() *cobra.Command {
	var admin bool
	var node string
	var expires time.Duration
	c := &cobra.Command{
		Use: "create APP | --admin | --node NAME", Short: "Make a token; it is shown this once", Args: args(0, 1, "APP"),
		RunE: func(c *cobra.Command, names []string) error {
			if expires < 0 {
				return usage("expires %s: lies in the past", expires)
			}
			req := &adminv1.CreateTokenRequest{ExpiresInMs: expires.Milliseconds()}
			switch {
			case len(names) == 1 && !admin && node == "":
				req.Kind, req.App = "app", names[0]
			case len(names) == 0 && admin && node == "":
				req.Kind = "admin"
			case len(names) == 0 && !admin && node != "":
				req.Kind, req.App = "node", node
			default:
				return usage("token create: needs one of: the name of an app, --admin, --node NAME")
			}
			return a.withAdmin(func(client adminv1.AdminServiceClient) error {
				r, err := client.CreateToken(c.Context(), req)
				if err != nil {
					return err
				}
				return a.print(view(r), func(w io.Writer) error {
					a.note("token %s, shown this once:", r.GetId())
					_, err := fmt.Fprintln(w, r.GetToken())
					return err
				})
			})
		},
	}
	c.Flags().BoolVar(&admin, "admin", false, "for an administrator")
	c.Flags().StringVar(&node, "node", "", "for a node of this name, which joins with it")
	c.Flags().DurationVar(&expires, "expires", 0, "how long it holds; for ever without")
	return c
}

func (a *app) tokenList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List tokens without their secrets", Args: args(0, 0, "no arguments"),
		RunE: func(c *cobra.Command, _ []string) error {
			return a.withAdmin(func(admin adminv1.AdminServiceClient) error {
				r, err := admin.ListTokens(c.Context(), &adminv1.ListTokensRequest{})
				if err != nil {
					return err
				}
				l := listing{head: []string{"ID", "KIND", "APP", "EXPIRES"}}
				for _, t := range r.GetTokens() {
					expires, ok := viewTime(t.GetExpiresAtMs()).(string)
					if !ok {
						expires = "never"
					}
					l.add(view(t), t.GetId(), t.GetKind(), t.GetApp(), expires)
				}
				return a.list(l)
			})
		},
	}
}

func (a *app) tokenRevoke() *cobra.Command {
	return &cobra.Command{
		Use: "revoke ID", Short: "End a token at once", Args: args(1, 1, "ID"),
		RunE: func(c *cobra.Command, ids []string) error {
			return a.withAdmin(func(admin adminv1.AdminServiceClient) error {
				if _, err := admin.RevokeToken(c.Context(), &adminv1.RevokeTokenRequest{Id: ids[0]}); err != nil {
					return fmt.Errorf("token %s: %w", ids[0], err)
				}
				a.done(false, "revoked token %s", ids[0])
				return nil
			})
		},
	}
}

// setupCommand turns the set-up link of the first start into the first administrator's token.
func (a *app) setupCommand() *cobra.Command {
	return &cobra.Command{
		Use: "setup LINK", Short: "Make the first administrator with the set-up link that the server printed", Args: args(1, 1, "LINK"),
		RunE: func(c *cobra.Command, links []string) error {
			secret, err := setupSecret(links[0])
			if err != nil {
				return err
			}
			return a.withAdmin(func(admin adminv1.AdminServiceClient) error {
				r, err := admin.Setup(c.Context(), &adminv1.SetupRequest{Secret: secret})
				if err != nil {
					return err
				}
				return a.print(view(r), func(w io.Writer) error {
					a.note("administrator's token, shown this once; `sluice context set NAME --token ...` keeps it:")
					_, err := fmt.Fprintln(w, r.GetToken())
					return err
				})
			})
		},
	}
}

// setupSecret takes the whole link, or the secret in it.
func setupSecret(link string) (string, error) {
	if !strings.Contains(link, "://") {
		return link, nil
	}
	u, err := url.Parse(link)
	if err != nil {
		return "", usage("set-up link: is not a URL; give the link as the server printed it")
	}
	for _, where := range []string{u.Query().Get("secret"), u.Query().Get("token"), u.Fragment} {
		if where != "" {
			return strings.TrimPrefix(strings.TrimPrefix(where, "secret="), "token="), nil
		}
	}
	return u.Path[strings.LastIndexByte(u.Path, '/')+1:], nil
}
