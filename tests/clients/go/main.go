// Reads clusters, creates a tenant and an application, and reads a refusal, with a client made from the OpenAPI document.
package main

import (
	"context"
	"fmt"
	"net/http"
	"os"

	"example.com/kubenova-client/api"
)

const tenant = "from-go"

func main() {
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	token := func(_ context.Context, request *http.Request) error {
		request.Header.Set("Authorization", "Bearer "+os.Getenv("KUBENOVA_TOKEN"))
		return nil
	}
	client, err := api.NewClientWithResponses(os.Getenv("KUBENOVA_URL"), api.WithRequestEditorFn(token))
	if err != nil {
		return err
	}

	clusters, err := client.ListClustersWithResponse(ctx, &api.ListClustersParams{})
	if err != nil {
		return err
	}
	if clusters.JSON200 == nil {
		return fmt.Errorf("clusters were refused: %s", clusters.Body)
	}
	found, err := enrolled(clusters.JSON200.Items, os.Getenv("KUBENOVA_CLUSTER"))
	if err != nil {
		return err
	}

	created, err := createTenant(ctx, client, found)
	if err != nil {
		return err
	}
	if err := createApplication(ctx, client); err != nil {
		return err
	}
	fmt.Printf("%d clusters; %s: %d command\n", len(clusters.JSON200.Items), created.Name, len(created.Commands))
	return nil
}

func enrolled(clusters []api.Cluster, name string) (*api.Cluster, error) {
	for _, one := range clusters {
		if one.Name == name && one.State == api.ClusterStateEnrolled {
			return &one, nil
		}
	}
	return nil, fmt.Errorf("cluster %s is not enrolled", name)
}

// createTenant creates it in a dry run, then really, then again, which is refused.
func createTenant(ctx context.Context, client *api.ClientWithResponses, on *api.Cluster) (*api.TenantAccepted, error) {
	pods, dryRun := int32(5), true
	body := api.TenantCreate{Name: tenant, Clusters: &[]string{on.Name}, Quota: &api.QuotaChange{Pods: &pods}}

	dry, err := client.CreateTenantWithResponse(ctx, &api.CreateTenantParams{DryRun: &dryRun}, body)
	if err != nil {
		return nil, err
	}
	if dry.JSON200 == nil || len(dry.JSON200.Commands) != 0 {
		return nil, fmt.Errorf("the dry run is not 200 without commands: %s", dry.Body)
	}

	created, err := client.CreateTenantWithResponse(ctx, &api.CreateTenantParams{}, body)
	if err != nil {
		return nil, err
	}
	accepted := created.JSON202
	if accepted == nil || accepted.Quota.Pods != pods || accepted.Commands[0].ClusterId != on.Id {
		return nil, fmt.Errorf("not accepted: %s", created.Body)
	}

	again, err := client.CreateTenantWithResponse(ctx, &api.CreateTenantParams{}, body)
	if err != nil {
		return nil, err
	}
	problem := again.ApplicationproblemJSON409
	if problem == nil || problem.Reason != "NAME_TAKEN" || (*problem.Fields)[0].Pointer != "/name" {
		return nil, fmt.Errorf("the name is not refused as taken: %s", again.Body)
	}
	return accepted, nil
}

func createApplication(ctx context.Context, client *api.ClientWithResponses) error {
	var body api.ApplicationBody
	if err := body.FromApplicationForm(api.ApplicationForm{Name: "shop", Image: "nginx:1.29"}); err != nil {
		return err
	}
	created, err := client.CreateApplicationWithResponse(ctx, tenant, &api.CreateApplicationParams{}, body)
	if err != nil {
		return err
	}
	if created.JSON202 == nil || created.JSON202.Spec.Components[0].Type != "webservice" {
		return fmt.Errorf("the application was refused: %s", created.Body)
	}
	return nil
}
