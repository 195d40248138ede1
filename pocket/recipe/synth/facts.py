"""Simple facts, as tables."""

CAPITALS = {
    "France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Germany": "Berlin", "Norway": "Oslo", "Japan": "Tokyo",
    "Egypt": "Cairo", "Kenya": "Nairobi", "Peru": "Lima", "Poland": "Warsaw", "Greece": "Athens", "Sweden": "Stockholm",
    "Finland": "Helsinki", "Ireland": "Dublin", "Portugal": "Lisbon", "Austria": "Vienna", "Russia": "Moscow",
    "China": "Beijing", "England": "London", "Denmark": "Copenhagen", "Canada": "Ottawa", "Hungary": "Budapest",
    "Cuba": "Havana", "Iceland": "Reykjavik", "Belgium": "Brussels", "India": "New Delhi", "Chile": "Santiago",
}  # fmt: skip
OPPOSITES = {
    "hot": "cold", "big": "small", "up": "down", "day": "night", "fast": "slow", "good": "bad", "old": "new",
    "wet": "dry", "light": "dark", "happy": "sad", "open": "closed", "full": "empty", "long": "short", "hard": "soft",
    "loud": "quiet", "early": "late", "high": "low", "left": "right", "near": "far", "rich": "poor", "strong": "weak",
    "young": "old", "clean": "dirty", "inside": "outside", "first": "last", "yes": "no", "true": "false",
    "summer": "winter", "love": "hate", "win": "lose", "push": "pull", "awake": "asleep",
}  # fmt: skip
COLORS = {
    "the sky on a clear day": "blue", "grass": "green", "snow": "white", "a banana": "yellow", "blood": "red",
    "coal": "black", "a lemon": "yellow", "milk": "white", "a carrot": "orange", "a frog": "green", "a tomato": "red",
    "an elephant": "gray", "chocolate": "brown", "the sun": "yellow", "a pumpkin": "orange", "a crow": "black",
    "a swan": "white", "a leaf in summer": "green", "the sea": "blue", "salt": "white",
}  # fmt: skip
SOUNDS = {
    "cat": "meow", "dog": "woof", "cow": "moo", "duck": "quack", "sheep": "baa", "pig": "oink", "bee": "buzz",
    "owl": "hoot", "lion": "roar", "snake": "hiss", "frog": "croak", "mouse": "squeak", "horse": "neigh",
}  # fmt: skip
YOUNG = {
    "cat": "kitten", "dog": "puppy", "cow": "calf", "sheep": "lamb", "horse": "foal", "duck": "duckling",
    "hen": "chick",
    "lion": "cub", "goat": "kid", "pig": "piglet", "frog": "tadpole", "swan": "cygnet", "deer": "fawn",
}  # fmt: skip
LEGS = {
    "dog": 4,
    "cat": 4,
    "bird": 2,
    "spider": 8,
    "bee": 6,
    "horse": 4,
    "person": 2,
    "ant": 6,
    "cow": 4,
    "snake": 0,
    "hen": 2,
}
PLURALS = {
    "mouse": "mice", "child": "children", "foot": "feet", "tooth": "teeth", "man": "men", "woman": "women",
    "goose": "geese", "sheep": "sheep", "fish": "fish", "leaf": "leaves", "knife": "knives", "wolf": "wolves",
    "cat": "cats", "box": "boxes", "baby": "babies", "city": "cities", "book": "books", "wish": "wishes",
}  # fmt: skip
PASTS = {
    "go": "went", "see": "saw", "eat": "ate", "run": "ran", "make": "made", "take": "took", "come": "came",
    "find": "found", "give": "gave", "write": "wrote", "sing": "sang", "walk": "walked", "play": "played",
    "think": "thought", "buy": "bought", "sleep": "slept", "swim": "swam", "know": "knew", "say": "said",
}  # fmt: skip
PLACES = {
    "a fish": "in water", "a bee": "in a hive", "a bear": "in a cave", "a bird": "in a nest", "a fox": "in a den",
    "a cow": "on a farm", "a penguin": "in cold places near the sea", "a camel": "in the desert",
    "a monkey": "in the trees", "a rabbit": "in a burrow", "a whale": "in the sea", "a spider": "in a web",
}  # fmt: skip
USES = {
    "a pen": "to write", "a knife": "to cut", "a cup": "to drink", "a bed": "to sleep", "a broom": "to sweep the floor",
    "a clock": "to tell the time", "a key": "to open a lock", "an umbrella": "to stay dry in the rain",
    "an oven": "to bake",
    "a boat": "to travel on water", "a lamp": "to give light", "a needle": "to sew", "soap": "to wash",
    "a map": "to find the way",
}  # fmt: skip
KINDS = {
    "a dog": "an animal", "an apple": "a fruit", "a rose": "a flower", "an oak": "a tree", "a carrot": "a vegetable",
    "a piano": "an instrument", "a hammer": "a tool", "Paris": "a city", "France": "a country", "Monday": "a day",
    "May": "a month", "red": "a color", "a sparrow": "a bird", "a trout": "a fish", "gold": "a metal",
    "tennis": "a sport",
}  # fmt: skip
PLAIN = (
    (("How many days are in a week?", "How many days does a week have?"), "A week has seven days."),
    (("How many months are in a year?", "How many months does a year have?"), "A year has twelve months."),
    (("How many hours are in a day?", "How many hours does a day have?"), "A day has 24 hours."),
    (("How many minutes are in an hour?", "How many minutes does an hour have?"), "An hour has 60 minutes."),
    (("How many seconds are in a minute?", "How many seconds does a minute have?"), "A minute has 60 seconds."),
    (
        ("How many days are in a year?", "How many days does a year have?"),
        "A year has 365 days, and a leap year has 366.",
    ),
    (("What are the four seasons?", "Name the seasons."), "The seasons are spring, summer, autumn and winter."),
    (("What is the sun?", "Tell me what the sun is."), "The sun is a star. It gives us light and warmth."),
    (("What is the moon?", "Tell me about the moon."), "The moon moves around the earth. We see it best at night."),
    (("Why do we sleep?", "Why do people sleep?"), "We sleep so that the body and the mind can rest."),
    (("What do plants need?", "What does a plant need to grow?"), "Plants need water, light, air and soil."),
    (("What is rain?", "Where does rain come from?"), "Rain is water that falls from the clouds."),
    (("What is ice?", "How do you make ice?"), "Ice is frozen water. Water freezes when it gets very cold."),
    (("What is snow?", "Tell me about snow."), "Snow is frozen water that falls from the clouds in winter."),
    (("What is the biggest animal?", "Which animal is the biggest?"), "The blue whale is the biggest animal."),
    (("What is the tallest animal?", "Which animal is the tallest?"), "The giraffe is the tallest animal."),
    (("What is the fastest land animal?", "Which animal runs fastest?"), "The cheetah is the fastest animal on land."),
    (("What do bees make?", "Who makes honey?"), "Bees make honey."),
    (
        ("What is bread made of?", "How is bread made?"),
        "Bread is made of flour, water, salt and yeast, and then baked.",
    ),
    (
        ("How many letters are in the alphabet?", "How many letters does English have?"),
        "The English alphabet has 26 letters.",
    ),
    (("What is a friend?", "What makes a good friend?"), "A good friend listens, helps and is kind to you."),
    (("Where does the sun rise?", "Where does the sun come up?"), "The sun rises in the east and sets in the west."),
    (("What planet do we live on?", "What is our planet called?"), "We live on the planet Earth."),
    (
        ("What is a computer?", "Tell me what a computer is."),
        "A computer is a machine that works with numbers, words and pictures.",
    ),
    (("What is a book?", "Tell me what a book is."), "A book has many pages with words or pictures that you can read."),
    (("What is water?", "Tell me about water."), "Water is clear and wet. All plants and animals need it to live."),
)
