package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sluice-mq/sluice/gen/adminv1"
	"github.com/sluice-mq/sluice/gen/nodev1"
)

func (a *app) nodeCommand() *cobra.Command {
	return a.noun("node", "Running nodes", a.nodeList(), a.nodeDescribe(),
		a.nodeDrain("drain", "Move a node's work to others; it goes on running", true),
		a.nodeDrain("undrain", "Give a drained node work again", false))
}

func (a *app) nodes(c *cobra.Command) ([]*nodev1.NodeState, error) {
	var nodes []*nodev1.NodeState
	err := a.withAdmin(func(admin adminv1.AdminServiceClient) error {
		r, err := admin.ListNodes(c.Context(), &adminv1.ListNodesRequest{})
		nodes = r.GetNodes()
		return err
	})
	return nodes, err
}

func (a *app) nodeList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List nodes", Args: args(0, 0, "no arguments"),
		RunE: func(c *cobra.Command, _ []string) error {
			nodes, err := a.nodes(c)
			if err != nil {
				return err
			}
			l := listing{head: []string{"NAME", "STATE", "ROLES", "GRPC", "HTTP", "BUILD"}}
			for _, n := range nodes {
				l.add(view(n), n.GetNode().GetName(), nodeState(n), strings.Join(n.GetNode().GetRoles(), ","), n.GetNode().GetGrpc(), n.GetNode().GetHttp(), n.GetBuild())
			}
			return a.list(l)
		},
	}
}

func nodeState(n *nodev1.NodeState) string {
	switch {
	case !n.GetAlive():
		return "away"
	case n.GetDraining():
		return "draining"
	default:
		return "alive"
	}
}

func (a *app) nodeDescribe() *cobra.Command {
	return &cobra.Command{
		Use: "describe NAME", Short: "Show a node", Args: args(1, 1, "NAME"),
		RunE: func(c *cobra.Command, names []string) error {
			nodes, err := a.nodes(c)
			if err != nil {
				return err
			}
			for _, n := range nodes {
				if n.GetNode().GetName() == names[0] {
					return a.print(view(n), func(w io.Writer) error {
						return describeTable(w, object{
							{"name", n.GetNode().GetName()},
							{"state", nodeState(n)},
							{"roles", n.GetNode().GetRoles()},
							{"grpc", n.GetNode().GetGrpc()},
							{"http", n.GetNode().GetHttp()},
							{"datacenter", n.GetNode().GetDatacenter()},
							{"build", n.GetBuild()},
						})
					})
				}
			}
			return fmt.Errorf("node %s: is not known; `sluice node list` shows the nodes", names[0])
		},
	}
}

func (a *app) nodeDrain(verb, short string, drain bool) *cobra.Command {
	return &cobra.Command{
		Use: verb + " NAME", Short: short, Args: args(1, 1, "NAME"),
		RunE: func(c *cobra.Command, names []string) error {
			return a.withAdmin(func(admin adminv1.AdminServiceClient) error {
				if _, err := admin.DrainNode(c.Context(), &adminv1.DrainNodeRequest{Name: names[0], Drain: drain}); err != nil {
					return fmt.Errorf("node %s: %w", names[0], err)
				}
				if drain {
					a.note("node %s is draining; `sluice node list` shows its state", names[0])
				} else {
					a.note("node %s takes work again", names[0])
				}
				return nil
			})
		},
	}
}
