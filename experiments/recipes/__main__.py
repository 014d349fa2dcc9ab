"""`python -m experiments.recipes`: the recipes, one line each."""

from experiments import recipes

if __name__ == "__main__":
    width = max(map(len, recipes.names()))
    for name in recipes.names():
        print(f"{name:{width}}  {recipes.describe(name)}")
